"""A service on the memory engine, one on vLLM for those who ask, and a control port that keeps what it is told."""

from __future__ import annotations

import json
import time
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest
import pytest_asyncio

from learning.errors import TemplateError
from learning.rls import RouterWeights
from registry.adapters import Adapter
from registry.manifest import BaseRevision, Manifest
from registry.registry import Registry
from serving.api import CommandResult, DomainStatus, SystemStatus, Waiting
from serving.errors import ControlUnavailable, InvalidRecord, UnknownName
from serving.frontdoor import build_app
from serving.options import EngineKnobs
from serving.past_bodies import Letter, LetterChoice, ReplayResult
from serving.service import RoutedService
from tests.serving.memory_engine import MemoryEngine
from tests.serving.publisher import BASE, Publisher, WordFeatures, word_router

WORDS = {"cats": "meow", "dogs": "woof"}
KNOBS = EngineKnobs(max_lora_rank=8)


class PlainTemplate:
    """The last message's text; no tokenizer is needed for what the front door does with it."""

    terminator = "\n"

    def render(self, messages: list[dict[str, str]]) -> str:
        if not messages:
            raise TemplateError("no messages")
        return messages[-1]["content"]


class Notebook:
    """A control port in memory."""

    def __init__(self) -> None:
        self.records: list[dict[str, Any]] = []
        self.calls: list[tuple[str, ...]] = []
        self.letters: list[Letter] = []
        self.replays: list[Sequence[LetterChoice] | None] = []
        self.up = True
        self.trouble: str | None = None

    def _check(self, domain: str) -> None:
        if not self.up:
            raise ControlUnavailable("the coordinator does not answer; try again")
        if domain not in WORDS:
            raise UnknownName(f"no domain {domain}")

    async def append_records(self, records: list[dict[str, Any]]) -> list[str]:
        for position, record in enumerate(records):
            if not record.get("completion"):
                raise InvalidRecord(f"record {position}: empty-completion")
        self.records += records
        return [str(record.get("id", position)) for position, record in enumerate(records)]

    async def domains(self) -> tuple[DomainStatus, ...]:
        return tuple(
            DomainStatus(
                domain=domain,
                state="open",
                version=None,
                examples=3,
                router_rows=2,
                routed_to={"cats": 0.75, "dogs": 0.25},
                waiting=Waiting(train=1),
            )
            for domain in WORDS
        )

    async def remove(self, domain: str) -> CommandResult:
        self._check(domain)
        self.calls.append(("remove", domain))
        return CommandResult(domain=domain, manifest=2, reason="remove")

    async def rollback(self, domain: str, version: str | None) -> CommandResult:
        self._check(domain)
        self.calls.append(("rollback", domain, str(version)))
        return CommandResult(domain=domain, manifest=2, reason="rollback")

    async def pin(self, domain: str, version: str | None) -> CommandResult:
        self._check(domain)
        self.calls.append(("pin", domain, str(version)))
        return CommandResult(domain=domain, manifest=2, reason="pin")

    async def unpin(self, domain: str) -> CommandResult:
        self._check(domain)
        self.calls.append(("unpin", domain))
        return CommandResult(domain=domain, manifest=2, reason="unpin")

    async def learn(self, domain: str) -> CommandResult:
        self._check(domain)
        self.calls.append(("learn", domain))
        return CommandResult(domain=domain, manifest=2, reason="learn")

    async def add_adapter(self, domain: str, offer: str, note: str) -> CommandResult:
        self._check(domain)
        self.calls.append(("add_adapter", domain, offer, note))
        return CommandResult(domain=domain, manifest=2, reason="taken")

    async def dead_letters(self) -> tuple[Letter, ...]:
        if not self.up:
            raise ControlUnavailable("the dead letters can't be reached")
        return tuple(self.letters)

    async def replay_letters(self, chosen: Sequence[LetterChoice] | None) -> ReplayResult:
        await self.dead_letters()
        self.replays.append(chosen)
        return ReplayResult(replayed=len(self.letters if chosen is None else chosen))

    async def status(self) -> SystemStatus:
        if not self.up:
            raise ControlUnavailable("down")
        base, domains = BaseRevision(model="test"), await self.domains()
        return SystemStatus(manifest=7, base=base, domains=domains, ingest=(), replicas={}, trouble=self.trouble)


@pytest.fixture
def registry(tmp_path: Path) -> Registry:
    return Registry(tmp_path / "registry", writer=True)


@pytest.fixture
def publisher(registry: Registry, tmp_path: Path) -> Publisher:
    return Publisher(registry, tmp_path / "scratch")


@pytest.fixture
def engine() -> MemoryEngine:
    return MemoryEngine()


@pytest.fixture
def service(engine: MemoryEngine, registry: Registry) -> RoutedService:
    return RoutedService(engine, registry, lambda _: WordFeatures(list(WORDS.values())), PlainTemplate(), KNOBS, BASE)


@pytest.fixture
def notebook() -> Notebook:
    return Notebook()


@pytest.fixture
def client_of() -> Callable[[RoutedService, Any], httpx.AsyncClient]:
    """An HTTP client of a service's application, without a socket."""

    def make(service: RoutedService, control: Any) -> httpx.AsyncClient:
        transport = httpx.ASGITransport(app=build_app(service, control), raise_app_exceptions=False)
        return httpx.AsyncClient(transport=transport, base_url="http://replica")

    return make


@pytest.fixture
def client(service: RoutedService, notebook: Notebook, client_of: Any) -> httpx.AsyncClient:
    return client_of(service, notebook)


@dataclass
class Theatre:
    """One started service on vLLM, shared by all tests of the session that want it; `folders` holds PEFT folders."""

    service: RoutedService
    publisher: Publisher
    weights: RouterWeights
    folders: dict[str, Path]
    model: Path
    texts: dict[str, list[str]]
    start_seconds: float

    async def publish(self, *names: str, versions: dict[str, int] | None = None) -> Manifest:
        """Prepare and commit a manifest with these domains, each at version 1 unless told otherwise."""
        versions = versions or {}
        adapters = []
        for domain in names:
            version = versions.get(domain, 1)
            folder = self.folders[f"{domain}{version}" if f"{domain}{version}" in self.folders else domain]
            rank = json.loads((folder / "adapter_config.json").read_text())["r"]
            adapters.append(self.publisher.adapter(domain, version, rank=rank, folder=folder))
        manifest = self.publisher.publish(adapters, self.weights, threshold=0.2)
        await self.service.prepare(manifest.number)
        await self.service.commit(manifest.number)
        return manifest


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def theatre(shared: Path, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Theatre]:
    from tests.serving import stage

    model, scratch = shared / "models" / "stories260K", tmp_path_factory.mktemp("theatre")
    folders = {
        name: stage.random_adapter(model, scratch / name, seed)
        for seed, name in enumerate((*stage.DOMAINS, "banking2"))
    }
    style = stage.template(model)
    texts = {d: stage.messages(shared / "data", d, "train", 60) for d in stage.DOMAINS}
    rendered = {d: [style.render([{"role": "user", "content": t}]) for t in own] for d, own in texts.items()}
    features = stage.extractor(model, [text for own in rendered.values() for text in own])
    publisher = Publisher(Registry(scratch / "registry", writer=True), scratch / "plain")
    started = time.monotonic()
    service = await RoutedService.start(stage.options(model), publisher.registry, lambda _: features, BASE)
    try:
        yield Theatre(
            service,
            publisher,
            stage.router(features, rendered),
            folders,
            model,
            texts,
            time.monotonic() - started,
        )
    finally:
        await service.stop()


@pytest_asyncio.fixture
async def cast(service: RoutedService, publisher: Publisher) -> dict[str, Adapter]:
    """Both domains in service, as manifest 1."""
    adapters = {domain: publisher.adapter(domain, 1) for domain in WORDS}
    publisher.publish(list(adapters.values()), word_router(WORDS))
    await service.catch_up()
    return adapters


@pytest.fixture
def house(service: RoutedService, notebook: Notebook, registry: Registry) -> Any:
    """A replica behind a door that asks for keys."""
    from tests.serving.doors import House

    return House(service, notebook, registry)
