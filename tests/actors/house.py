"""A whole system in one process, over one folder: everything real but the replicas' engine and the transport.

`House` is driven by hand, so that a test decides who moves when; `restart` and `crash` build the actors anew over the
same folder, as a process that was started again would.
"""

from __future__ import annotations

import shutil
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from actors.candidates import Method
from actors.closing import ClosingRule
from actors.coordinator import Coordinator, CoordinatorOptions
from actors.exam import ExamLimits
from actors.handover import Handover
from actors.ingest import Ingest, IngestOptions
from actors.labels import by_domain
from actors.learner import LearnerWorker, merged_examples
from actors.router import Router
from actors.spool import Spool
from actors.spool_file import delete_file
from actors.takeover import left_behind
from actors.training import Trained, TrainingOrder
from learning.adapter_check import AdapterCheck
from learning.contract import Learner, Progress, TrainingJob, TrainingResult
from learning.features import FeatureExtractor
from learning.gate import Gate
from learning.rls import RouterWeights, StreamingRidge
from learning.router_options import RouterOptions
from learning.template import PromptTemplate
from registry.adapters import parsed_name
from registry.manifest import BaseRevision, Manifest
from registry.registry import Registry
from serving.api import DomainStatus, SystemStatus
from streaming.records import EndOfDomain, TaskRecord
from streaming.source import TopicPartition
from tests.actors.clock import skew
from tests.actors.file_stream import FileStream
from tests.actors.shelves import Replicas, Shelf

RIDGE = 10.0
BASE = BaseRevision(model="tiny", digest="b" * 64)
OPTIONS = IngestOptions(
    max_record_bytes=10_000,
    poll_records=50,
    block_rows=7,
    spool_limit=10_000,
    spool_bytes=1 << 30,
    held_out_fraction=0.25,
)
CLOSING = ClosingRule(count=None, quiet_seconds=None, settle_seconds=60.0)
EXAMS = ExamLimits(16, 1 << 16)


class Crash(BaseException):
    """The process dies here. No handler of the product may catch it, as none could catch a SIGKILL."""


@dataclass(frozen=True)
class HouseParts:
    """What is slow to build and never changes."""

    template: PromptTemplate
    extractor: FeatureExtractor
    learner: Learner


class OneAtATime:
    """An object whose methods run one after another, as an actor's do; `on_call` sees each call and may raise."""

    def __init__(self, inner: Any) -> None:
        self.inner = inner
        self.on_call: Callable[[str], None] = lambda _name: None
        self._lock = threading.Lock()

    def __getattr__(self, name: str) -> Callable[..., Any]:
        method = getattr(self.inner, name)

        def call(*args: Any, **kwargs: Any) -> Any:
            with self._lock:
                self.on_call(name)
                return method(*args, **kwargs)

        return call


class Failing:
    """An object one method of which raises the first few times."""

    def __init__(self, inner: Any, method: str, times: int, error: Exception) -> None:
        self._inner, self._method, self.left, self._error = inner, method, times, error

    def __getattr__(self, name: str) -> Any:
        method = getattr(self._inner, name)
        if name != self._method:
            return method

        def call(*args: Any, **kwargs: Any) -> Any:
            if self.left:
                self.left -= 1
                raise self._error
            return method(*args, **kwargs)

        return call


class Handle:
    """A worker by its place, whoever fills it now, as an actor's name finds it again after a restart."""

    def __init__(self, workers: Sequence[Any], index: int) -> None:
        self._workers, self._index = workers, index

    def __getattr__(self, name: str) -> Any:
        return getattr(self._workers[self._index], name)


class Interrupted:
    """A learner during whose trainings something else happens: the examples are fetched, the first step is not made."""

    name = "interrupted"

    def __init__(self, inner: Learner, before: Callable[[str], None]) -> None:
        self._inner, self._before = inner, before

    def train(self, job: TrainingJob, on_progress: Callable[[Progress], None] | None = None) -> TrainingResult:
        self._before(job.domain)
        return self._inner.train(job, on_progress)


class Trainer:
    """A learner worker that remembers what it was asked for; `fails` has errors to raise before the next trainings."""

    worker: LearnerWorker

    def __init__(self, ingests: Callable[[], Sequence[Any]]) -> None:
        self._ingests = ingests
        self.asked: list[tuple[str, int, tuple[str, ...], tuple[str, ...], Path | None]] = []
        self.fails: list[BaseException] = []
        self.ordered: Callable[[str], None] = lambda _domain: None
        """What happens when a training is ordered; `before`: when it begins, its examples fetched."""
        self.before: Callable[[str], None] = lambda _domain: None

    def train(self, order: TrainingOrder) -> Trained:
        train, held_out = merged_examples(self._ingests(), order)
        ids = tuple(e.id for e in train), tuple(e.id for e in held_out)
        self.asked.append((order.domain, order.seal.version, *ids, newest(order)))
        self.ordered(order.domain)
        if self.fails:
            raise self.fails.pop(0)
        return self.worker.train(order)

    def progress(self) -> Progress | None:
        return self.worker.progress()


class House:
    """Stream, ingest workers, router, learner, coordinator and one replica over the folder `home`."""

    router_options = RouterOptions(ridge=RIDGE, background=False)
    exams = EXAMS
    job_seconds = 60.0
    check: AdapterCheck | None = None

    def __init__(
        self,
        home: Path,
        parts: HouseParts,
        *,
        partitions: int = 2,
        workers: int = 1,
        options: IngestOptions = OPTIONS,
        closing: ClosingRule = CLOSING,
        gate: Gate | None = None,
        stream: Any = None,
    ) -> None:
        self.home, self.parts, self.partitions, self.workers = home, parts, partitions, workers
        self.options, self.closing = options, closing
        self.gate = gate or Gate()
        self.stream = stream or FileStream(home / "stream.sqlite", partitions)
        self.trainer = Trainer(lambda: self.ingests)
        self.up()

    # -- life ---------------------------------------------------------------------------------------------------------

    def up(self) -> None:
        self.registry = Registry(self.home / "registry", writer=True)
        self.start_replicas()
        self.start_router()
        self.ingests = [self._ingest(index) for index in range(self.workers)]
        self.employ(self.parts.learner)
        self.start_coordinator()

    def employ(self, learner: Any) -> None:
        """Have this method train from now on."""
        interrupted = Interrupted(learner, lambda domain: self.trainer.before(domain))
        ingests, handover = list(self.handles.values()), Handover(self.registry.storage)
        self.trainer.worker = LearnerWorker(interrupted, self.home / "work", ingests, self.exams, handover=handover)

    @property
    def handles(self) -> dict[str, Any]:
        return {f"ingest-{index}": Handle(self.ingests, index) for index in range(len(self.ingests))}

    def start_replicas(self) -> None:
        self.replicas = Replicas([Shelf(self.registry)])

    def start_router(self) -> None:
        """Start the router from its last snapshot; what it held beyond that is gone."""
        router = Router(Registry(self.home / "registry", writer=True), BASE, self.router_options)
        if hasattr(self, "router"):
            self.router.inner = router
        else:
            self.router = OneAtATime(router)

    def zombie(self) -> Any:
        """Start another router while this one goes on; returns the old one, which believes itself the writer."""
        old = self.router.inner
        self.start_router()
        return old

    def restart_ingest(self, index: int = 0) -> None:
        """Start a worker anew from its spool's file."""
        self._close(self.ingests[index])
        self.ingests[index] = self._ingest(index)

    def spool_path(self, index: int) -> Path:
        return self.home / "spool" / f"{index}.sqlite"

    def delete_spool(self, index: int = 0) -> None:
        """Start a worker anew whose spool is gone."""
        self._close(self.ingests[index])
        delete_file(self.spool_path(index))
        self.ingests[index] = self._ingest(index)

    def employ_workers(self, count: int) -> None:
        """Stop all ingest workers, and start another number of them over what spools there are; others are dropped."""
        self.coordinator.stop()
        for ingest in self.ingests:
            self._close(ingest)
        for index in range(count, self.workers):
            delete_file(self.spool_path(index))
        self.workers = count
        self.ingests = [self._ingest(index) for index in range(count)]
        self.employ(self.parts.learner)
        self.start_coordinator()

    def start_coordinator(self) -> None:
        self.coordinator = Coordinator(
            self.registry,
            BASE,
            self.handles,
            self.router,  # type: ignore[arg-type]
            {"learner-0": self.trainer},
            self.replicas,
            self.coordinator_options(),
            check=self.check,
        )

    def coordinator_options(self) -> CoordinatorOptions:
        return CoordinatorOptions(
            closing=self.closing,
            gate=self.gate,
            method=Method("lora", seed=1),
            keep_snapshots=2,
            keep_manifests=20,
            keep_versions=20,
        )

    def crash(self) -> None:
        """Everything dies, and starts again over the same folder. The replica dies with the rest."""
        self._die()
        self.up()

    def back_up(self, folder: Path) -> None:
        """Copy the registry, and of the rest of the home nothing: that is cached."""
        shutil.copytree(self.home / "registry", folder)

    def restore(self, folder: Path) -> None:
        """Everything stops, and starts again on a copied registry; the spools stay where they are."""
        self._die()
        shutil.rmtree(self.home / "registry")
        shutil.copytree(folder, self.home / "registry")
        self.up()

    def damage(self) -> Path:
        """Turn over one bit in the middle of the newest snapshot; returns its path."""
        newest = max((self.home / "registry" / "snapshots").iterdir(), key=lambda path: path.name)
        content = bytearray(newest.read_bytes())
        content[len(content) // 2] ^= 1
        newest.write_bytes(content)
        return newest

    def down(self) -> None:
        self.coordinator.stop()
        for ingest in self.ingests:
            ingest.stop()
        self.stream.close()

    def _die(self) -> None:
        self.coordinator.stop()
        for ingest in self.ingests:
            self._close(ingest)
        del self.router

    def _ingest(self, index: int, member: int | None = None) -> Ingest:
        member = index if member is None else member
        made = Ingest(
            lambda start_at: self.stream.open(start_at, member, self.workers),
            self.letters,
            Spool(self.spool_path(index)),
            self.parts.extractor,
            self.parts.template,
            self.router,  # type: ignore[arg-type]
            self.options,
            left_behind(self.spool_path(index), self.workers),
        )
        # As its loops would in their first turns, where they can.
        with suppress(Exception):
            made._following.view()
            made._opened()
        return made

    @staticmethod
    def _close(ingest: Ingest) -> None:
        # Only the handles are given up, as the system does for a process that dies.
        ingest._close_source()
        ingest._spool.close()

    # -- moving -------------------------------------------------------------------------------------------------------

    def send(self, records: Iterable[TaskRecord | EndOfDomain]) -> None:
        self.stream.send(records)

    def poll(self) -> int:
        for ingest in self.ingests:
            # As its other loop does.
            ingest._following.view()
        return sum(ingest.poll_once(0.0) for ingest in self.ingests)

    def observe(self) -> int:
        return sum(ingest.observe_once() for ingest in self.ingests)

    def drain(self, timeout_s: float = 20.0) -> None:
        """Poll and observe until the router has counted all that was sent."""
        deadline = time.monotonic() + timeout_s
        while not self.is_drained():
            assert time.monotonic() < deadline, f"not drained: {self.router.observed()}"
            self.poll()
            self.observe()

    def is_drained(self) -> bool:
        observed = self.router.inner.observed()
        return all(observed.get(each, 0) >= end for each, end in self.stream.ends().items())

    def tick(self) -> int:
        """One tick, and whatever it started to its end; a crash within comes out here. Returns how much it started."""
        self.coordinator.tick()
        started = len(self.coordinator._jobs)
        for job in self.coordinator.work():
            job.result(self.job_seconds)
        return started

    def settle(self, until: Callable[[], bool], timeout_s: float = 30.0) -> None:
        """Move everybody until something holds; where nobody has anything to do, time passes."""
        deadline = time.monotonic() + timeout_s
        rounds = 0
        while not until():
            assert time.monotonic() < deadline + rounds * 0.25, f"did not come about; {self.coordinator.status()}"
            if not self.poll() + self.observe() + self.tick():
                self.wait(0.25)
                rounds += 1

    def wait(self, seconds: float) -> None:
        """Let some time pass for everybody at once."""
        skew.skip(seconds)

    def learn(self, domain: str, version: int = 1) -> None:
        """Move everybody until this version is in service and nothing of the domain waits."""
        self.settle(lambda: self.version(domain) == version and not self.waiting(domain))

    @property
    def sink(self) -> Any:
        return self.stream.sink

    @property
    def letters(self) -> Any:
        return self.stream.letters

    @property
    def location(self) -> Any:
        return self.stream.location

    @property
    def current(self) -> Manifest:
        manifest = self.registry.current()
        assert manifest is not None, "nothing was published"
        return manifest

    def version(self, domain: str) -> int | None:
        manifest = self.registry.current()
        route = manifest.routes.get(domain) if manifest else None
        return route.version if route else None

    def served(self, domain: str) -> str | None:
        route = self.current.routes.get(domain)
        return route.adapter if route else None

    def markers(self, domain: str) -> int:
        """Partitions in which the domain's end was marked since what was last tried of it."""
        found = self.router.open().get(domain)
        return len(found.markers) if found else 0

    def waiting(self, domain: str) -> int:
        """Rows of a domain in all spools, whatever their stage."""
        return sum(ingest.report().rows.get(domain, 0) for ingest in self.ingests)

    def status(self) -> SystemStatus:
        return self.coordinator.status()

    def state(self, domain: str) -> DomainStatus | None:
        return next((each for each in self.coordinator.domains() if each.domain == domain), None)

    def is_in(self, domain: str, state: str) -> bool:
        found = self.state(domain)
        return found is not None and found.state == state

    def trained(self, domain: str) -> list[tuple[str, ...]]:
        """The training ids of each training asked for, in order."""
        return [asked[2] for asked in self.trainer.asked if asked[0] == domain]

    def features(self, records: Sequence[TaskRecord]) -> np.ndarray:
        return self.parts.extractor.extract([self.parts.template.render(r.messages_or_prompt()) for r in records])

    def expected(self, records: Sequence[TaskRecord]) -> RouterWeights:
        """One batch ridge solve over these training examples."""
        phi_ND = self.features(records)
        domains = tuple(sorted({str(r.domain) for r in records}))
        target_NK = np.array([[float(r.domain == domain) for domain in domains] for r in records])
        gram_DD = phi_ND.T @ phi_ND + RIDGE * np.eye(phi_ND.shape[1])
        return RouterWeights(domains, np.linalg.solve(gram_DD, phi_ND.T @ target_NK), "")

    def check_exact(self, records: Sequence[TaskRecord], probes: Sequence[TaskRecord] = ()) -> None:
        """The router predicts what the batch solve over these examples predicts, and counts them exactly."""
        expected = self.expected(records)
        found = weights_by_domain(self.router.inner)
        counts = {domain: sum(r.domain == domain for r in records) for domain in expected.domains}
        assert self.router.counts() == counts
        assert found.domains == expected.domains
        phi_ND = self.features([*records, *probes])
        np.testing.assert_allclose(found.scores(phi_ND), expected.scores(phi_ND), rtol=1e-9, atol=1e-10)


def newest(order: TrainingOrder) -> Path | None:
    """The folder of the newest version that a training goes on from or stands beside."""
    folders = [segment.folder for segment in order.segments]
    return max(folders, key=lambda folder: (parsed_name(folder.name) or ("", 0))[1], default=None)


def weights_by_domain(router: Any) -> RouterWeights:
    """The router's weights with a column for each domain, published or not, whatever its segments."""
    ridge: StreamingRidge = router._sums.ridge
    return ridge.weights(by_domain(ridge.counts))


def records_of(domain: str, count: int, *, start: int = 0, answer: str = "ok", **fields: Any) -> list[TaskRecord]:
    """Examples of a domain; every fourth one is for the held-out set."""
    made = []
    for number in range(start, start + count):
        split = "test" if number % 4 == 3 else "train"
        made.append(
            TaskRecord(
                id=f"{domain}-{number}",
                domain=domain,
                prompt=f"{domain} asks {number * 7919 % 1000}",
                completion=answer,
                **{"split": split, **fields},
            )
        )
    return made


def training(records: Iterable[TaskRecord]) -> list[TaskRecord]:
    return [record for record in records if record.split == "train"]


def partition(number: int, topic: str = "stream") -> TopicPartition:
    return TopicPartition(topic, number)


def limits(**changes: Any) -> IngestOptions:
    return replace(OPTIONS, **changes)
