"""A service on the memory engine and a real registry; a control port that keeps what it is told."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest

from learning.errors import TemplateError
from registry.registry import Registry
from serving.errors import ControlUnavailable, InvalidRecord, UnknownName
from serving.frontdoor import build_app
from serving.service import RoutedService
from tests.serving.memory_engine import MemoryEngine
from tests.serving.publisher import Publisher, WordFeatures

WORDS = {"cats": "meow", "dogs": "woof"}


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
        self.up = True

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

    async def domains(self) -> list[dict[str, Any]]:
        return [{"domain": domain} for domain in WORDS]

    async def remove(self, domain: str) -> None:
        self._check(domain)
        self.calls.append(("remove", domain))

    async def rollback(self, domain: str, version: str | None) -> None:
        self._check(domain)
        self.calls.append(("rollback", domain, str(version)))

    async def pin(self, domain: str, version: str | None) -> None:
        self._check(domain)
        self.calls.append(("pin", domain, str(version)))

    async def unpin(self, domain: str) -> None:
        self._check(domain)
        self.calls.append(("unpin", domain))

    async def status(self) -> dict[str, Any]:
        return {"name": "test"}

    async def metrics(self) -> str:
        if not self.up:
            raise ControlUnavailable("down")
        return "# TYPE anabranch_test gauge\nanabranch_test 1\n"


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
    return RoutedService(engine, registry, lambda _: WordFeatures(list(WORDS.values())), PlainTemplate(), 8)


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
