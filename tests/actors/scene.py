"""The coordinator's surroundings in memory, each as scripted: what it decides is seen without sums, files or threads.

The ledger and the routes are the real ones; registry, spools, learner and replicas only remember. A `Scene` outlives
its coordinator, as what is durable does.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np

from actors.candidates import Method
from actors.change import Change, next_routes, next_withdrawn
from actors.closing import ClosingRule
from actors.coordinator import Coordinator, CoordinatorOptions
from actors.coverage import Span
from actors.directive import PublicationReport
from actors.errors import NoLongerSealed, PublicationFailed
from actors.ledger import Ledger
from actors.observation import Int64, Loss, Marker, Observation, OpenDomain, RowKey, Seal, Watermarks, example_digest
from actors.report import IngestReport, Survey
from actors.routed_share import Share
from actors.training import Trained, TrainingOrder
from learning.contract import Comparison, Evaluation, NewAdapter, TrainingResult
from learning.gate import Gate
from registry.adapters import Adapter, AdapterFacts
from registry.disk import Disk
from registry.errors import UnknownAdapter, UnknownManifest
from registry.manifest import BaseRevision, Manifest, Route, Tombstone, adapter_name
from registry.storage import Place
from serving.api import ReplicaStatus
from streaming.source import TopicPartition
from tests.actors.standins import judged

BASE = BaseRevision(model="tiny", digest="b" * 64)
P0, P1 = TopicPartition("stream", 0), TopicPartition("stream", 1)


@dataclass(frozen=True)
class Digests:
    """Settled digests, as a set in memory."""

    known: frozenset[bytes] = frozenset()

    @property
    def count(self) -> int:
        return len(self.known)

    def contains(self, digests: Sequence[bytes]) -> list[bool]:
        return [digest in self.known for digest in digests]

    def plus(self, digests: Collection[bytes]) -> Digests:
        return Digests(self.known | set(digests))

    def merged(self) -> Digests:
        return self


class MemoryRegistry:
    """Manifests and adapters by name."""

    def __init__(self) -> None:
        self.kept: dict[int, Manifest] = {}
        self.versions: dict[str, Adapter] = {}
        self.pruned: list[tuple[int, ...]] = []
        self.exams: dict[int, bytes] = {}
        self.commits = 0
        self.states = self.bases = SimpleNamespace(held=nullcontext)
        self.storage = SimpleNamespace(present=lambda path: None, take_away=lambda path: None)

    def head(self) -> Any:
        return SimpleNamespace(snapshot=self.commits)

    def current(self) -> Manifest | None:
        return self.kept[max(self.kept)] if self.kept else None

    def manifest(self, number: int) -> Manifest:
        if number not in self.kept:
            raise UnknownManifest(f"manifest {number}")
        return self.kept[number]

    def adapters(self, domain: str | None = None) -> list[Adapter]:
        return [a for a in self.versions.values() if domain in (None, a.domain)]

    def survey(self, domain: str | None = None) -> tuple[list[Adapter], dict[str, Any]]:
        return self.adapters(domain), {}

    def numbered(self, domain: str, version: int) -> Adapter | None:
        return next((a for a in self.adapters(domain) if a.version == version), None)

    def chain(self) -> Any:
        return SimpleNamespace(damaged={})

    def adapter(self, name: str) -> Adapter:
        if name not in self.versions:
            raise UnknownAdapter(name)
        return self.versions[name]

    def route(self, name: str, *, pinned: bool = False) -> Route:
        adapter = self.adapter(name)
        return adapter.route(map(self.adapter, adapter.facts.beside), pinned=pinned)

    def has_version(self, domain: str, version: int) -> bool:
        return self.numbered(domain, version) is not None

    def newest_version(self, domain: str) -> int:
        return max((a.version for a in self.adapters(domain)), default=0)

    def add_adapter(self, domain: str, version: int, folder: Path, facts: AdapterFacts, exam: bytes = b"") -> Adapter:
        self.exams[version] = exam
        digest = f"{len(self.versions) + 1:064x}"[::-1]
        name = adapter_name(domain, version, digest)
        self.versions[name] = Adapter(name, domain, version, Place(Disk(Path("nowhere")), name), digest, facts)
        return self.versions[name]

    def prune(self, *keep: int, serving: int | None) -> list[str]:
        self.pruned.append((*keep, serving or 0))
        current = self.current()
        removed = current.removed if current else {}
        gone = [a.name for a in self.adapters() if a.domain in removed and a.version <= removed[a.domain].version]
        if serving is None or all(serving >= stone.manifest for stone in removed.values()):
            for name in gone:
                del self.versions[name]
        return gone


class MemoryRouter:
    """The router's port over a real ledger; `on_call` sees each call by name and may raise."""

    def __init__(self, registry: MemoryRegistry) -> None:
        self.registry, self.ledger = registry, Ledger(Digests())  # type: ignore[arg-type]
        self.on_call: Callable[[str], None] = lambda _name: None
        self.changes: list[Change] = []

    def observed(self) -> Watermarks:
        self.on_call("observed")
        return dict(self.ledger.observed)

    def open(self) -> dict[str, OpenDomain]:
        self.on_call("open")
        return self.ledger.open()

    def unread(self) -> tuple[Loss, ...]:
        return tuple(self.ledger.unread)

    def seal(self, domain: str, version: int, until: Watermarks) -> Seal:
        self.on_call("seal")
        self.registry.commits += 1
        return self.ledger.seal(domain, version, until)

    def renumber(self, domain: str, version: int, other: int) -> Seal | None:
        self.on_call("renumber")
        self.ledger.renumber(domain, version, other)
        return self.ledger.open()[domain].seal

    def reopen(self, domain: str, version: int) -> None:
        self.on_call("reopen")
        self.ledger.reopen(domain, version)

    def drop_markers(self, domain: str, markers: Watermarks) -> None:
        self.on_call("drop_markers")
        self.ledger.drop_markers(domain, markers)

    def open_offsets(self) -> dict[TopicPartition, Int64]:
        self.on_call("open_offsets")
        return self.ledger.open_offsets()

    def lose(self, offsets: Mapping[TopicPartition, Collection[int]], unlearned: Collection[str]) -> None:
        self.on_call("lose")
        self.ledger.lose(offsets, unlearned)

    def skip(self, partition: TopicPartition, first: int, end: int) -> None:
        self.on_call("skip")
        self.ledger.skip(partition, first, end)

    def give_up(self, domain: str, until: Watermarks) -> None:
        self.on_call("give_up")
        self.ledger.give_up(domain, until)

    def counts(self) -> dict[str, int]:
        return self.ledger.examples()

    def segment_counts(self) -> dict[str, int]:
        return {}

    def prequential(self) -> dict[str, Share]:
        return {}

    def trouble(self) -> None:
        return None

    def examples(self) -> dict[str, int]:
        return self.ledger.examples()

    def tidy(self) -> None:
        self.on_call("tidy")

    def versions(self, domain: str) -> frozenset[int]:
        return self.ledger.versions(domain)

    def is_outdated(self) -> bool:
        return False

    def publish(self, change: Change) -> Manifest:
        self.on_call("publish")
        current = self.registry.current()
        routes = next_routes(
            current.routes if current else {},
            change,
            self.registry,
            current.removed if current else {},  # type: ignore[arg-type]
        )
        withdrawn = next_withdrawn(current, change, routes)
        settles = self._settle(change, current)
        for domain in change.removes:
            self.ledger.remove(domain, change.fence)
        if (
            current
            and not settles
            and not change.removes
            and (routes, withdrawn) == (current.routes, current.withdrawn)
        ):
            return current
        number = max(self.registry.kept, default=0) + 1
        removed = dict(current.removed) if current else {}
        removed |= {d: Tombstone(version=v, manifest=number) for d, v in change.removes.items()}
        made = Manifest(
            number=number,
            parent=current.number if current else None,
            created_at=datetime.now(UTC),
            base=BASE,
            routes=routes,
            removed=removed,
            withdrawn=withdrawn,
            reason=change.reason,
        )
        self.registry.kept[number] = made
        self.registry.commits += 1
        self.changes.append(change)
        return made

    def _settle(self, change: Change, current: Manifest | None) -> bool:
        settles = False
        for domain, name in change.puts.items():
            version = self.registry.adapter(name).version
            entry = self.ledger.entries.get(domain)
            if entry is not None and entry.seal is not None and entry.seal.version == version:
                self.ledger.settle(domain)
                settles = True
                continue
            route = current.routes.get(domain) if current else None
            known = {route.adapter if route else None, current.withdrawn.get(domain) if current else None}
            if not change.override and name not in known:
                raise NoLongerSealed(f"{name} is not published")
        return settles


@dataclass
class MemorySpool:
    """A worker as it reports; what it is asked for is remembered."""

    rows: dict[str, int] = field(default_factory=dict)
    unobserved: dict[str, int] = field(default_factory=dict)
    quiet: dict[str, float] = field(default_factory=dict)
    up_seconds: float = 0.0
    full: bool = False
    positions: dict[TopicPartition, int] = field(default_factory=dict)
    reaches: dict[TopicPartition, int] = field(default_factory=dict)
    ends: dict[TopicPartition, int] = field(default_factory=dict)
    holds: Collection[int] | None = None
    """Offsets in P0; None: all there are."""
    read: tuple[tuple[int, int], ...] = ()
    """What it has read of P0."""
    begins: int | None = None
    """Where the log of P0 begins, to the worker that reads it."""
    over_share: frozenset[str] = frozenset()
    away: bool = False
    given_up: list[tuple[TopicPartition, int, int]] = field(default_factory=list)

    def report(self) -> IngestReport:
        self._answer()
        return IngestReport(
            rows=self.rows,
            unobserved=self.unobserved,
            quiet=self.quiet,
            up_seconds=self.up_seconds,
            partitions=frozenset({P0, P1}),
            spooled=0,
            spooled_bytes=0,
            full=self.full,
            polled=0,
            dead_letters=0,
            duplicates=0,
            trouble={},
            positions=self.positions,
            reaches=self.reaches,
            ends=self.ends,
            over_share=self.over_share,
        )

    def survey(self, stretches: Mapping[TopicPartition, tuple[int, int]]) -> dict[TopicPartition, Survey]:
        self._answer()
        return {each: self._survey(each, *stretch) for each, stretch in stretches.items()}

    def _survey(self, partition: TopicPartition, first: int, end: int) -> Survey:
        offsets = np.arange(first, end)
        if partition != P0:
            return Survey(offsets, (), None)
        held = offsets if self.holds is None else offsets[np.isin(offsets, list(self.holds))]
        return Survey(held, tuple(Span(P0, *each) for each in self.read), self.begins)

    def give_up(self, partition: TopicPartition, first: int, end: int) -> None:
        self._answer()
        self.given_up.append((partition, first, end))
        self.read = (*self.read, (first, end))

    def _answer(self) -> None:
        if self.away:
            raise ConnectionError("the worker is being restarted")


class MemoryLearner:
    """Trains at once; `fails` are the errors of the next trainings, `before` what happens during each."""

    def __init__(self) -> None:
        self.orders: list[TrainingOrder] = []
        self.fails: list[BaseException] = []
        self.rejects = self.forgets = 0
        """How many of the next trainings come out bad, or lose what the continued segment knew."""
        self.continues: int | None = None
        """The segment that trainings go on from; None: the last."""
        self.before: Callable[[], None] = lambda: None

    def train(self, order: TrainingOrder) -> Trained:
        self.orders.append(order)
        self.before()
        if self.fails:
            raise self.fails.pop(0)
        loss = 3.0 if self.rejects else 1.0
        self.rejects = max(self.rejects - 1, 0)
        last = order.segments[-1].number if order.segments else None
        continued = self.continues or last
        evaluations = Evaluation(loss, 0.0, 4), Evaluation(2.0, 0.0, 4), None
        adapter = NewAdapter(order.domain, Path("/nowhere"), 2, continued, *evaluations)
        touched: tuple[Comparison, ...] = ()
        if self.forgets and continued is not None:
            touched = (Comparison(order.domain, continued, judged(8, 0.1, exact=True), judged(8, 4.0, exact=False)),)
        self.forgets = max(self.forgets - 1, 0)
        exams = b'{"own": 1}\n', b'{"own": 1}\n{"before": 1}\n'
        return Trained(TrainingResult((adapter,), 1, 1.0, 0.0, loss, touched), order.seal.train, *exams)

    def progress(self) -> None:
        return None


class MemoryReplicas:
    """One replica behind its directory; `refuses` names versions and domains it can't load."""

    def __init__(self, registry: MemoryRegistry) -> None:
        self.registry, self.refuses, self.served, self.led = registry, set[str](), 0, 0
        self.away = self.deaf = False
        """Whether no call is answered, or none that publishes."""
        self.asked: list[int] = []

    def in_force(self) -> int:
        self._answer()
        return self.led

    def replicas(self) -> Mapping[str, ReplicaStatus]:
        self._answer()
        return {"r": ReplicaStatus(manifest=self.served)}

    def publish(self, number: int, one_by_one: bool = False) -> PublicationReport:
        self._answer()
        self.asked.append(number)
        if self.deaf:
            raise ConnectionError("the directory died")
        for domain, route in self.registry.manifest(number).routes.items():
            if {domain, route.adapter} & self.refuses:
                raise PublicationFailed(f"manifest {number}: no replica could prepare it: {route.adapter}")
        self.served = self.led = number
        return PublicationReport(number, 1, {}, 0.0)

    def _answer(self) -> None:
        if self.away:
            raise ConnectionError("the directory is away")


class Scene:
    """All of it, and a coordinator that can be started anew."""

    def __init__(self, workers: int = 2, closing: ClosingRule | None = None) -> None:
        self.registry = MemoryRegistry()
        self.router = MemoryRouter(self.registry)
        self.spools = [MemorySpool() for _ in range(workers)]
        self.learner, self.replicas = MemoryLearner(), MemoryReplicas(self.registry)
        self.closing = closing or ClosingRule(count=None, quiet_seconds=None, settle_seconds=60.0)
        self.coordinator: Coordinator
        self.start()

    def start(self) -> None:
        if hasattr(self, "coordinator"):
            self.coordinator.stop()
        self.coordinator = Coordinator(
            self.registry,  # type: ignore[arg-type]
            BASE,
            {f"ingest-{index}": spool for index, spool in enumerate(self.spools)},
            self.router,
            {"learner-0": self.learner},
            self.replicas,  # type: ignore[arg-type]
            CoordinatorOptions(self.closing, Gate(), Method("lora", 1), 2, 20, 3),
        )

    def send(self, domain: str, rows: int, *, to: TopicPartition = P0, held_out: int = 0, mark: bool = False) -> None:
        """Have rows of a domain counted, the first of them to train on, and its marker after them in one partition."""
        start = self.router.ledger.observed.get(to, 0)
        keys = tuple(
            RowKey(domain, example_digest(domain, f"{to}-{start + n}"), to, start + n, n >= rows)
            for n in range(rows + held_out)
        )
        end = start + rows + held_out
        markers = (Marker(to, end, domain),) if mark else ()
        block = Observation({to: (start, end + len(markers))}, keys, markers)
        self.router.ledger.apply(block, ["new"] * len(keys))

    def mark(self, domain: str) -> None:
        """Mark a domain's end in both partitions."""
        for partition in (P0, P1):
            self.send(domain, 0, to=partition, mark=True)

    def tick(self, times: int = 1) -> None:
        """Tick, and wait for what it starts."""
        for _ in range(times):
            self.coordinator.tick()
            for job in self.coordinator.work():
                job.result(20)

    def learn(self, domain: str, rows: int = 8) -> None:
        """Have the next version of a domain learned and published."""
        self.send(domain, rows)
        self.mark(domain)
        self.tick(2)

    def version(self, domain: str) -> int | None:
        current = self.registry.current()
        route = current.routes.get(domain) if current else None
        return route.version if route else None

    @property
    def current(self) -> Manifest:
        found = self.registry.current()
        assert found is not None, "nothing was published"
        return found

    def in_service(self) -> bool:
        """Whether the replica stands on what is in force."""
        return self.replicas.served == self.current.number
