"""A front door without Ray and without a model: a system whose state the test sets, at a real socket."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import uvicorn

from registry.keys import Grant
from registry.manifest import BaseRevision
from registry.registry import Registry
from serving.access import Access
from serving.access_options import AccessOptions
from serving.api import (
    ActorStatus,
    DomainStatus,
    IngestStatus,
    ReplicaStatus,
    SystemStatus,
    TrainingProgress,
    VersionStatus,
    Waiting,
)
from serving.decision_options import DecisionOptions
from serving.errors import ControlUnavailable, InvalidRecord
from serving.frontdoor import build_app
from serving.past_bodies import Letter
from serving.service import RoutedService
from tests.serving.conftest import KNOBS, Notebook, PlainTemplate
from tests.serving.memory_engine import MemoryEngine
from tests.serving.publisher import BASE, Publisher, WordFeatures, word_router

WORDS = {"cats": "meow", "dogs": "woof"}


def published(name: str, examples: int = 500) -> DomainStatus:
    """A domain in service, as the status tells it."""
    figures = {"candidate_exact_match": 0.97, "candidate_loss": 0.01, "base_loss": 0.4}
    versions = tuple(
        VersionStatus(
            name=f"{name}@v{number}-0123abcd",
            status="accepted",
            reason="held-out loss 0.0100 beats the base's 0.4000",
            examples=examples,
            figures=figures,
        )
        for number in (1, 2)
    )
    return DomainStatus(
        domain=name,
        state="published",
        detail=versions[-1].name,
        version=versions[-1].name,
        examples=examples,
        router_rows=examples,
        prequential=0.98,
        prequential_rows=200,
        routed_to={name: 0.98, "base": 0.02},
        waiting=Waiting(),
        versions=versions,
    )


def learning(name: str, step: int) -> DomainStatus:
    """A domain in training."""
    curve = tuple((each, 2.0 / (1 + each)) for each in range(0, step + 1, 5))
    progress = TrainingProgress(step=step, steps=180, loss=2.0 / (1 + step), curve=curve)
    return DomainStatus(
        domain=name,
        state="learning",
        version=None,
        examples=80,
        router_rows=0,
        waiting=Waiting(train=70, held_out=10),
        progress=progress,
    )


class World(Notebook):
    """The system behind the door; what a person does there is noted."""

    def __init__(self, domains: Sequence[DomainStatus]) -> None:
        super().__init__()
        self.known = {domain.domain: domain for domain in domains}
        self.letters = [
            Letter(
                topic="anabranch",
                partition=0,
                offset=7,
                reason="undecodable",
                detail="not JSON: expected value at line 1 column 1",
                at=1_700_000_000.0,
                text="{broken",
                bytes=7,
            )
        ]

    def _check(self, domain: str) -> None:
        if not self.up:
            raise ControlUnavailable("the coordinator does not answer; try again")

    async def append_records(self, records: list[dict[str, Any]]) -> list[str]:
        for place, record in enumerate(records):
            if record.get("completion") == "refuse me":
                raise InvalidRecord(f"number {place + 1} of {len(records)}: it asked to be refused")
        self.records += records
        return [str(place) for place in range(len(records))]

    async def domains(self) -> tuple[DomainStatus, ...]:
        return tuple(self.known.values())

    async def status(self) -> SystemStatus:
        self._check("")
        worker = IngestStatus(
            name="ingest-0",
            partitions=("anabranch[0]",),
            spooled=80,
            full=False,
            polled=1_000 + len(self.records),
            dead_letters=1,
            duplicates=0,
            lag={"anabranch[0]": 3},
        )
        return SystemStatus(
            manifest=1,
            base=BaseRevision(model="test"),
            domains=tuple(self.known.values()),
            ingest=(worker,),
            replicas={"replica-1": ReplicaStatus(manifest=1)},
            actors=(ActorStatus(name="router", state="up"),),
            trouble=self.trouble,
        )


@contextmanager
def standing(
    folder: Path, world: World, *, keys: bool = False, scopes: tuple[str, ...] = ("infer", "ingest", "admin")
) -> Iterator[tuple[str, str]]:
    """The address, and a key where one is asked for."""
    registry = Registry(folder / "registry", writer=True)
    publisher = Publisher(registry, folder / "scratch")
    words = WordFeatures(list(WORDS.values()))
    decisions = DecisionOptions(keep=1000, prompts="whole")
    service = RoutedService(
        MemoryEngine(), registry, lambda _: words, PlainTemplate(), KNOBS, BASE, decisions=decisions
    )
    access = Access.over(registry.storage, AccessOptions(), required=keys)
    key = access.store.create(Grant(name="person", scopes=scopes))[1] if keys else ""
    app = build_app(service, world, access)
    server = uvicorn.Server(uvicorn.Config(app, port=0, log_level="error", lifespan="off"))

    async def serve() -> None:
        exam = b'{"id": "1", "prompt": "say meow\\n", "completion": "meow"}\n'
        figures = {"candidate_exact_match": 0.97, "seconds": 18.0}
        adapters = [publisher.adapter(name, 1, figures=figures, exam=exam) for name in WORDS]
        manifest = publisher.publish(adapters, word_router(WORDS))
        await service.prepare(manifest.number)
        await service.commit(manifest.number)
        await server.serve()
        await service.stop()

    thread = threading.Thread(target=lambda: asyncio.run(serve()), daemon=True)
    thread.start()
    try:
        while not server.started:
            assert thread.is_alive(), "the front door did not start"
            thread.join(0.01)
        yield f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}", key
    finally:
        server.should_exit = True
        thread.join(20)
