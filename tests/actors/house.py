"""A whole system in one process, over one folder: everything real but the replicas' engine and the transport.

`House` is driven by hand, so that a test decides who moves when; `restart` and `crash` build the actors anew over the
same folder, as a process that was started again would.
"""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.numpy

from actors.closing import ClosingRule
from actors.coordinator import Coordinator, CoordinatorOptions
from actors.directive import PublicationReport
from actors.errors import PublicationFailed
from actors.ingest import Ingest, IngestOptions
from actors.learner import LearnerWorker, merged_examples
from actors.router import Router
from actors.spool import Spool
from actors.training import Trained, TrainingOrder
from learning.contract import Learner, Progress, TrainingJob, TrainingResult
from learning.features import FeatureExtractor
from learning.gate import Gate
from learning.rls import RouterWeights
from learning.template import PromptTemplate
from registry.errors import RegistryError
from registry.manifest import BaseRevision, Manifest
from registry.registry import Registry
from serving.api import DomainStatus, ReplicaStatus, SystemStatus
from streaming.dead_letters import DeadLetters
from streaming.location import StreamLocation, ensure_topic, open_dead_letters, open_sink, open_source
from streaming.records import EndOfDomain, TaskRecord
from streaming.source import RecordSink, TopicPartition

RIDGE = 10.0
BASE = BaseRevision(model="tiny", digest="b" * 64)
OPTIONS = IngestOptions(
    max_record_bytes=10_000,
    poll_records=50,
    block_rows=7,
    spool_limit=10_000,
    held_out_fraction=0.25,
)
CLOSING = ClosingRule(count=None, quiet_seconds=None, settle_seconds=60.0)


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


class Shelf:
    """One replica's engine stand-in: it reads a manifest with all that it names, and puts it in force by one swap."""

    def __init__(self, registry: Registry) -> None:
        self._registry = registry
        self.refuses: set[str] = set()
        """Adapter names that can't be loaded."""
        self.number = 0
        self.adapters: dict[str, dict[str, np.ndarray]] = {}
        self.weights: RouterWeights | None = None
        self._prepared: tuple[int, dict[str, dict[str, np.ndarray]], RouterWeights | None] | None = None
        current = registry.current()
        if current is not None:
            self.prepare(current.number)
            self.commit(current.number)

    def prepare(self, number: int) -> None:
        manifest = self._registry.manifest(number)
        adapters = {}
        for domain, route in manifest.routes.items():
            if route.adapter in self.refuses or domain in self.refuses:
                raise RegistryError(f"{route.adapter} does not fit")
            adapter = self._registry.adapter(route.adapter)
            adapter.verify()
            adapters[domain] = safetensors.numpy.load_file(adapter.path / "adapter_model.safetensors")
        weights = RouterWeights.from_bytes(self._registry.weights(manifest)) if manifest.router else None
        self._prepared = (number, adapters, weights)

    def commit(self, number: int) -> None:
        if self._prepared is None or self._prepared[0] != number:
            raise AssertionError(f"commit of {number}, prepared is {self._prepared and self._prepared[0]}")
        self.number, self.adapters, self.weights = self._prepared


class Replicas:
    """The directory port over shelves in this process, in two phases."""

    def __init__(self, shelves: Sequence[Shelf]) -> None:
        self.shelves = list(shelves)
        self.published: list[int] = []

    def publish(self, number: int) -> PublicationReport:
        ready, failures = [], {}
        for index, shelf in enumerate(self.shelves):
            try:
                shelf.prepare(number)
                ready.append(shelf)
            except RegistryError as error:
                failures[str(index)] = str(error)
        if self.shelves and not ready:
            raise PublicationFailed(f"manifest {number}: no replica could prepare it: {failures}")
        for shelf in ready:
            shelf.commit(number)
        self.published.append(number)
        return PublicationReport(number, len(ready), failures, 0.0)

    def replicas(self) -> dict[str, ReplicaStatus]:
        return {str(index): ReplicaStatus(manifest=shelf.number) for index, shelf in enumerate(self.shelves)}


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
        self.asked.append((order.domain, order.version, *ids, order.continues))
        self.ordered(order.domain)
        if self.fails:
            raise self.fails.pop(0)
        return self.worker.train(order)

    def progress(self) -> Progress | None:
        return self.worker.progress()


class House:
    """Stream, ingest workers, router, learner, coordinator and one replica over the folder `home`."""

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
    ) -> None:
        self.home, self.parts, self.partitions, self.workers = home, parts, partitions, workers
        self.options, self.closing = options, closing
        self.gate = gate or Gate()
        self.location = StreamLocation("embedded", "stream", path=home / "stream.sqlite")
        ensure_topic(self.location, partitions)
        self.sink: RecordSink = open_sink(self.location)
        self.letters: DeadLetters = open_dead_letters(self.location)
        self._reader = open_source(self.location, group=None)
        self._reader.poll(0.0, 0)  # it stands at the beginning and stays there, so its lag is the log's end
        self.trainer = Trainer(lambda: self.ingests)
        self.up()

    # -- life ---------------------------------------------------------------------------------------------------------

    def up(self) -> None:
        self.registry = Registry(self.home / "registry", writer=True)
        self.replicas = Replicas([Shelf(self.registry)])
        self.start_router()
        self.ingests = [self._ingest(index) for index in range(self.workers)]
        self.employ(self.parts.learner)
        self.start_coordinator()

    def employ(self, learner: Any) -> None:
        """Have this method train from now on."""
        interrupted = Interrupted(learner, lambda domain: self.trainer.before(domain))
        self.trainer.worker = LearnerWorker(interrupted, self.home / "work", list(self.handles.values()))

    @property
    def handles(self) -> dict[str, Any]:
        return {f"ingest-{index}": Handle(self.ingests, index) for index in range(len(self.ingests))}

    def start_router(self) -> None:
        """Start the router from its last snapshot; what it held beyond that is gone."""
        router = Router(
            Registry(self.home / "registry", writer=True), BASE, ridge=RIDGE, class_weighting="none", abstain_below=0.1
        )
        if hasattr(self, "router"):
            self.router.inner = router
        else:
            self.router = OneAtATime(router)

    def restart_ingest(self, index: int = 0) -> None:
        """Start a worker anew from its spool's file."""
        self._close(self.ingests[index])
        self.ingests[index] = self._ingest(index)

    def start_coordinator(self) -> None:
        self.coordinator = Coordinator(
            self.registry,
            BASE,
            self.handles,
            self.router,  # type: ignore[arg-type]
            [self.trainer],
            self.replicas,
            CoordinatorOptions(
                closing=self.closing,
                gate=self.gate,
                learner_name="lora",
                seed=1,
                keep_snapshots=2,
                keep_manifests=20,
            ),
        )

    def crash(self) -> None:
        """Everything dies, and starts again over the same folder. The replica dies with the rest."""
        self.coordinator.stop()
        for ingest in self.ingests:
            self._close(ingest)
        del self.router
        self.up()

    def down(self) -> None:
        self.coordinator.stop()
        for ingest in self.ingests:
            ingest.stop()
        self.sink.close()
        self.letters.close()
        self._reader.close()

    def _ingest(self, index: int, member: int | None = None) -> Ingest:
        member = index if member is None else member

        def source(start_at: Any) -> Any:
            return open_source(self.location, group="house", start_at=start_at, member=member, members=self.workers)

        return Ingest(
            source,
            self.letters,
            Spool(self.home / "spool" / f"{index}.sqlite"),
            self.parts.extractor,
            self.parts.template,
            self.router,  # type: ignore[arg-type]
            self.options,
        )

    @staticmethod
    def _close(ingest: Ingest) -> None:
        # Only the handles are given up, as the system does for a process that dies.
        ingest._source.close()
        ingest._spool.close()

    # -- moving -------------------------------------------------------------------------------------------------------

    def send(self, records: Iterable[TaskRecord | EndOfDomain]) -> None:
        for record in records:
            self.sink.append(record)
        self.sink.flush()

    def poll(self) -> int:
        return sum(ingest.poll_once(0.0) for ingest in self.ingests)

    def observe(self) -> int:
        return sum(ingest.observe_once() for ingest in self.ingests)

    def drain(self, timeout_s: float = 20.0) -> None:
        """Poll and observe until the router has applied all that was sent."""
        deadline = time.monotonic() + timeout_s
        while not self.is_drained():
            assert time.monotonic() < deadline, f"not drained: {self.router.watermarks()}"
            self.poll()
            self.observe()

    def is_drained(self) -> bool:
        applied = self.router.inner.watermarks()
        return all(applied.get(each, 0) >= end for each, end in self._reader.lag().items())

    def tick(self) -> int:
        """One tick, and whatever it started to its end; a crash within comes out here. Returns how much it started."""
        self.coordinator.tick()
        jobs = list(self.coordinator._jobs.values())
        for job in jobs:
            job.result(60)
        return len(jobs)

    def settle(self, until: Callable[[], bool], timeout_s: float = 30.0) -> None:
        """Move everybody until something holds; where nobody has anything to do, time passes."""
        deadline = time.monotonic() + timeout_s
        while not until():
            assert time.monotonic() < deadline, f"did not come about; {self.coordinator.status()}"
            if not self.poll() + self.observe() + self.tick():
                self.wait(0.25)

    def wait(self, seconds: float) -> None:
        """Let some time pass for everybody at once: whatever happened or is to happen is nearer to its end by it."""
        for stage in self.coordinator._stages.values():
            stage.retry_at -= seconds
        for ingest in self.ingests:
            ingest._observer._asked_at -= seconds
            ingest._quiet._started -= seconds
            for domain in ingest._quiet._stirred:
                ingest._quiet._stirred[domain] -= seconds

    def learn(self, domain: str, version: int = 1) -> None:
        """Move everybody until this version is in service and nothing of the domain waits."""
        self.settle(lambda: self.version(domain) == version and not self.waiting(domain))

    # -- looking ------------------------------------------------------------------------------------------------------

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
        """Markers of a domain in all spools."""
        sql = "SELECT count(*) FROM markers WHERE domain=?"
        return sum(ingest._spool._db.execute(sql, (domain,)).fetchone()[0] for ingest in self.ingests)

    def waiting(self, domain: str) -> int:
        """Rows of a domain in all spools, whatever their stage."""
        return sum(1 for ingest in self.ingests for row in _rows(ingest) if row[0] == domain)

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
        found = self.router.inner._sums.weights()
        counts = {domain: sum(r.domain == domain for r in records) for domain in expected.domains}
        assert self.router.counts() == counts
        assert found.domains == expected.domains
        phi_ND = self.features([*records, *probes])
        np.testing.assert_allclose(found.scores(phi_ND), expected.scores(phi_ND), rtol=1e-9, atol=1e-10)


def _rows(ingest: Ingest) -> list[tuple[str, str]]:
    return ingest._spool._db.execute("SELECT domain, record_id FROM rows").fetchall()


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


def peft_folder(folder: Path, seed: int, rank: int = 4) -> Path:
    """A folder as PEFT saves it, with weights drawn from `seed`."""
    folder.mkdir(parents=True)
    values = np.random.default_rng(seed).normal(size=(rank, 8)).astype(np.float32)
    (folder / "adapter_config.json").write_text(json.dumps({"peft_type": "LORA", "r": rank}))
    safetensors.numpy.save_file({"layers.0.lora_A.weight": values}, folder / "adapter_model.safetensors")
    return folder
