"""What a flood and a junk domain cost healthy domains beside them: the time from a marker to the published version.

Healthy domains send small batches, each with its marker, at random times: alone, beside a flood of ten times their
rows, and beside a junk domain of half of all rows, marked four times as often, whose every version the gate rejects.
The three take turns in one run. Stream (embedded, one partition), ingest, spool, router, registry, gate and coordinator
are the real ones in one process, on a clock of the benchmark's own: a step takes the processor time that it took and a
fixed time for each sync of a file, and a call of the router waits for the one before. So other work on the machine is
in no figure. Features are a hash of the text, a training takes a fixed time, shorter than real ones, and a replica
takes any manifest at once: what those cost is not the claim. There is a learner for each domain, as no order of turns
helps where learners are too few. Run it with `python -m benchmarks.isolation`.
"""

from __future__ import annotations

import argparse
import heapq
import json
import os
import random
import tempfile
import time
from collections import Counter, deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import asdict, dataclass, replace
from functools import partial
from hashlib import shake_256
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.numpy

from actors.candidates import Method
from actors.closing import ClosingRule
from actors.coordinator import Coordinator, CoordinatorOptions
from actors.directive import PublicationReport
from actors.exam import ExamLimits
from actors.ingest import Ingest, IngestOptions
from actors.learner import LearnerWorker
from actors.router import Router
from actors.spool import Spool
from benchmarks.hardware import describe
from learning.contract import Evaluation, NewAdapter, Progress, TrainingJob, TrainingResult
from learning.gate import Gate
from learning.router_options import RouterOptions
from registry.manifest import BaseRevision
from registry.registry import Registry
from serving.api import ReplicaStatus
from streaming.location import StreamLocation, ensure_topic, open_dead_letters, open_sink, open_source
from streaming.records import EndOfDomain, TaskRecord

RESULT = Path(__file__).parent / "results" / "isolation"
CASES = ("alone", "flood", "junk")
_DIM = 256
_PARTITIONS = 1
_BASE = BaseRevision(model="none", digest="b" * 64)
_LIMITS = IngestOptions(
    max_record_bytes=1 << 20,
    poll_records=500,
    block_rows=256,
    spool_limit=4_000,
    spool_bytes=1 << 30,
    held_out_fraction=0.0,
)


@dataclass(frozen=True)
class Load:
    """Rows of a healthy domain's batch, seconds between its markers on average, domains, learners, seconds of a
    training and of a sync, seconds of a turn, and how many turns each case has."""

    rows: int = 20
    period: float = 12.0
    domains: int = 10
    learners: int = 12
    service: float = 5.0
    sync: float = 0.001
    seconds: float = 40.0
    rounds: int = 6

    @property
    def rate(self) -> float:
        """Rows a second of all healthy domains."""
        return self.rows * self.domains / self.period


class HashFeatures:
    """float64[n, 256] from the bytes of each text."""

    fingerprint = "hash"
    feature_dim = _DIM

    def extract(self, texts: Sequence[str]) -> np.ndarray:
        """Features of each text."""
        digests = b"".join(shake_256(text.encode()).digest(4 * _DIM) for text in texts)
        return np.frombuffer(digests, dtype=np.uint32).reshape(len(texts), _DIM) / 2.0**31 - 1.0


class LastMessage:
    """The last message as it is."""

    digest = "plain"

    def render(self, messages: Sequence[dict[str, str]] | str) -> str:
        """Return the text of the prompt."""
        return messages if isinstance(messages, str) else messages[-1]["content"]


class Untrained:
    """Writes an adapter: worse than the base for junk, better than what serves for the others."""

    name = "none"

    def __init__(self) -> None:
        self.rows: list[tuple[str, int]] = []

    def train(self, job: TrainingJob, on_progress: Callable[[Progress], None] | None = None) -> TrainingResult:
        """Learn nothing."""
        self.rows.append((job.domain, len(job.train)))
        (job.output / "adapter_config.json").write_text(json.dumps({"peft_type": "LORA", "r": 2}))
        weights = {"layers.0.lora_A.weight": np.random.default_rng().normal(size=(2, 16)).astype(np.float32)}
        safetensors.numpy.save_file(weights, job.output / "adapter_model.safetensors")
        last = job.of_domain()[-1] if job.of_domain() else None
        loss = 3.0 if job.domain == "junk" else 1.0
        candidate, base, before = (Evaluation(each, 0.0, len(job.held_out)) for each in (loss, 2.0, 1.5))
        compared = (candidate, base, before if last else None)
        made = NewAdapter(job.domain, job.output, 2, last.segment if last else None, *compared)
        return TrainingResult((made,), 1, 1.0, 0.0, loss)


class Timed:
    """The router, and the seconds that its calls have taken."""

    def __init__(self, inner: Router, took: Callable[[], float]) -> None:
        self._inner, self._took, self.spent = inner, took, 0.0

    def __getattr__(self, name: str) -> Callable[..., Any]:
        def call(*args: Any) -> Any:
            began = self._took()
            try:
                return getattr(self._inner, name)(*args)
            finally:
                self.spent += self._took() - began

        return call


class Watch:
    """The replica, which takes any manifest at once, and notes which markers' batches it has the versions of."""

    def __init__(self, registry: Registry, rows: int) -> None:
        self._registry, self._rows, self._number = registry, rows, 0
        self._learned: dict[str, dict[str, int]] = {}
        self.sent: dict[str, deque[tuple[str, float]]] = {}
        self.done: list[tuple[str, float]] = []
        """Cases and times of the markers whose batches were published since somebody looked."""

    def publish(self, number: int, one_by_one: bool = False) -> PublicationReport:
        """Take a manifest; the version of a domain answers as many of its markers as it has learned batches."""
        self._number = number
        for domain, route in self._registry.manifest(number).routes.items():
            learned = self._learned.setdefault(domain, {})
            if domain not in self.sent or route.adapter in learned:
                continue
            before = sum(learned.values()) // self._rows
            learned[route.adapter] = self._registry.adapter(route.adapter).facts.train_examples
            batches = sum(learned.values()) // self._rows - before
            self.done += [self.sent[domain].popleft() for _ in range(batches)]
        return PublicationReport(number, 1, {}, 0.0)

    def in_force(self) -> int:
        """Return the manifest that is served."""
        return self._number

    def replicas(self) -> dict[str, ReplicaStatus]:
        """Describe the one replica."""
        return {"replica": ReplicaStatus(manifest=self._number)}


class WaitingPool:
    """An executor whose jobs the benchmark runs when their time has come."""

    def __init__(self) -> None:
        self.jobs: list[tuple[Future[Any], Callable[[], Any]]] = []

    def submit(self, job: Callable[[], Any]) -> Future[Any]:
        """Keep a job."""
        future: Future[Any] = Future()
        self.jobs.append((future, job))
        return future

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """Keep none."""
        self.jobs.clear()


class OneProcess:
    """All of it, over a queue of what happens when: each step is run at its time, and its actor is busy for as long as
    the step takes."""

    def __init__(self, home: Path, load: Load) -> None:
        self._load, self._syncs, self.now = load, 0, 0.0
        self._queue: list[tuple[float, int, Callable[[], None]]] = []
        self._numbers, self._order = Counter[str](), count()
        self._real = os.fsync, time.monotonic
        os.fsync, time.monotonic = self._sync, lambda: self.now
        location = StreamLocation("embedded", "stream", path=home / "stream.sqlite")
        ensure_topic(location, _PARTITIONS)
        self._sink = open_sink(location)
        registry = Registry(home / "registry", writer=True)
        self._router: Any = Timed(Router(registry, _BASE, RouterOptions(ridge=10.0, background=False)), self._took)
        features: Any = HashFeatures()
        template: Any = LastMessage()
        self._ingest = Ingest(
            lambda start_at: open_source(location, group="bench", start_at=start_at, member=0, members=1),
            open_dead_letters(location),
            Spool(home / "spool.sqlite"),
            features,
            template,
            self._router,
            _LIMITS,
        )
        self.method, self.watch = Untrained(), Watch(registry, load.rows - load.rows // 4)
        learners = {
            f"learner-{index}": LearnerWorker(self.method, home / f"learner-{index}", [self._ingest], ExamLimits(0, 1))
            for index in range(load.learners)
        }
        closing = ClosingRule(count=None, quiet_seconds=60.0, settle_seconds=5.0)
        options = CoordinatorOptions(closing, Gate(exam_rows=0), Method("none", 0), 2, 20, 3)
        workers = {"ingest": self._ingest}
        self.coordinator = Coordinator(registry, _BASE, workers, self._router, learners, self.watch, options)
        self._pools = [WaitingPool(), WaitingPool(), WaitingPool()]
        for name, pool in zip(("_learning", "_publishing", "_keeping"), self._pools, strict=True):
            setattr(self.coordinator, name, pool)
        self._router_free, self._free = 0.0, [0.0] * load.learners
        self.taken: dict[str, list[float]] = {case: [] for case in CASES}
        for loop in (self._poll, self._observe, self._tick):
            self.at(0.0, loop)

    def close(self) -> None:
        """Give clock and syncs back to the process."""
        os.fsync, time.monotonic = self._real

    def _sync(self, fd: Any) -> None:
        self._syncs += 1
        self._real[0](fd)

    def at(self, moment: float, step: Callable[[], None]) -> None:
        """Have a step run at a moment."""
        heapq.heappush(self._queue, (moment, next(self._order), step))

    def run(self, until: Callable[[], bool]) -> None:
        """Let time pass until something holds."""
        while not until():
            moment, _, step = heapq.heappop(self._queue)
            self.now = max(self.now, moment)
            step()

    def send(self, domain: str, rows: int) -> None:
        """Send rows of a domain, every fourth for its exam."""
        for number in range(self._numbers[domain], self._numbers[domain] + rows):
            split: Any = "test" if number % 4 == 3 else "train"
            text = f"{domain} asks {number}, at some length, as examples do"
            self._sink.append(
                TaskRecord(id=f"{domain}-{number}", domain=domain, prompt=text, completion="so", split=split)
            )
        self._numbers[domain] += rows
        self._sink.flush()

    def mark(self, domain: str, case: str | None = None) -> None:
        """Send the domain's marker, and note it where one waits for what it closes."""
        if case is not None:
            self.watch.sent.setdefault(domain, deque()).append((case, self.now))
        self._sink.append(EndOfDomain(domain=domain))
        self._sink.flush()

    # -- what each actor does -----------------------------------------------------------------------------------------

    def _took(self) -> float:
        return time.thread_time() + self._syncs * self._load.sync

    def _busy(self, step: Callable[[], Any], syncs: int = 0) -> tuple[Any, float]:
        """Run a step; returns what it says, and when it is done. `syncs` are those that SQLite makes beside."""
        self._syncs += syncs
        began, spent = self._took() - syncs * self._load.sync, self._router.spent
        said = step()
        calls = self._router.spent - spent
        waits = max(self._router_free - self.now, 0.0) if calls else 0.0
        self._router_free = max(self._router_free, self.now) + calls
        ends = self.now + waits + self._took() - began
        for case, sent in self.watch.done:
            self.taken[case].append(ends - sent)
        self.watch.done.clear()
        return said, ends

    def _poll(self) -> None:
        polled, ends = self._busy(lambda: self._ingest.poll_once(0.0), 2)
        self.at(ends + (0.0 if polled else 0.05), self._poll)

    def _observe(self) -> None:
        observed, ends = self._busy(self._ingest.observe_once)
        self.at(ends + (0.0 if observed else 0.1), self._observe)

    def _tick(self) -> None:
        _, ends = self._busy(self.coordinator.tick)
        for pool in self._pools:
            for future, job in pool.jobs:
                self.at(self._learned_at(ends) if pool is self._pools[0] else ends, partial(self._work, future, job))
            pool.jobs.clear()
        self.at(ends + 0.25, self._tick)

    def _learned_at(self, ordered: float) -> float:
        """Return when a training is done: by the learner that is free first."""
        free = min(range(len(self._free)), key=self._free.__getitem__)
        self._free[free] = max(ordered, self._free[free]) + self._load.service
        return self._free[free]

    def _work(self, future: Future[Any], job: Callable[[], Any]) -> None:
        said, ends = self._busy(job)
        # Not before: the coordinator looks whether it is done.
        self.at(ends, lambda: future.set_result(said))


def turn(system: OneProcess, load: Load, case: str, seed: int) -> None:
    """Send one turn's load, and wait until all that healthy domains sent is published."""
    chance, began = random.Random(seed), system.now
    for index in range(load.domains):
        at = chance.uniform(0.0, load.period)
        while at < load.seconds:
            system.at(began + at, partial(batch, system, load, f"healthy-{index}", case))
            at += chance.uniform(0.5, 1.5) * load.period
    rate = {"flood": 10 * load.rate, "junk": load.rate}.get(case, 0.0)
    between = {"flood": load.period, "junk": load.period / 4}.get(case, load.seconds)
    for step in range(int(load.seconds * 10) if rate else 0):
        # As many in the long run, whatever the rounding.
        rows = int((step + 1) * rate / 10) - int(step * rate / 10)
        system.at(began + 0.1 * step, partial(system.send, case, rows))
    for step in range(1, int(load.seconds / between) if rate else 0):
        system.at(began + step * between, partial(system.mark, case))
    ends = began + load.seconds
    system.run(lambda: system.now > ends and not any(system.watch.sent.values()))


def batch(system: OneProcess, load: Load, domain: str, case: str) -> None:
    """Send one batch of a healthy domain."""
    system.send(domain, load.rows)
    system.mark(domain, case)


def measure(home: Path, load: Load) -> dict[str, Any]:
    """All figures of one run, as they go into the result file."""
    hardware = describe(("numpy", "safetensors", "pydantic"))
    system = OneProcess(home, load)
    try:
        # What is done for the first time takes longer.
        turn(system, replace(load, seconds=load.period), "alone", 0)
        for case in CASES:
            system.taken[case].clear()
        for number in range(load.rounds):
            # In another order each time: none is always the one after the flood.
            for place in range(len(CASES)):
                turn(system, load, CASES[(place + number) % len(CASES)], 1 + number)
        junk = next((each for each in system.coordinator.domains() if each.domain == "junk"), None)
    finally:
        system.close()
    taken, trained = system.taken, system.method.rows
    alone = np.quantile(taken["alone"], 0.99)
    return {
        "claim": __doc__.splitlines()[0] if __doc__ else "",
        "hardware": hardware,
        "load": asdict(load),
        "learners_busy": round(load.domains / load.period * load.service / load.learners, 2),
        "seconds_from_marker_to_published": {
            case: {
                "markers": len(some),
                **{f"p{100 * q:.0f}": round(float(np.quantile(some, q)), 3) for q in (0.5, 0.95, 0.99)},
                "p99_rise": round(float(np.quantile(some, 0.99) / alone - 1), 3),
            }
            for case, some in taken.items()
        },
        "trainings_of_junk": [rows for domain, rows in trained if domain == "junk"],
        "trainings_of_flood": sum(domain == "flood" for domain, _ in trained),
        "junk": junk.detail if junk is not None else "",
        "junk_rows_given_up": sum(stretch.rows for stretch in junk.lost) if junk is not None else 0,
    }


def table(result: dict[str, Any]) -> str:
    """The figures as they are read."""
    found, machine = result["seconds_from_marker_to_published"], result["hardware"]
    load, cores = result["load"], f"{machine['cores']} cores, {machine['memory_gib']} GiB"
    lines = [
        f"Marker to published of {load['domains']} healthy domains. {machine['processor']}, {cores}, load average "
        f"{machine['load_average']} at the start. A training takes {load['service']:g} s; with nobody beside, "
        f"{load['learners']} learners are busy {result['learners_busy']:.0%} of the time.",
        "",
        "| beside | markers | p50 | p95 | p99 | p99's rise |",
        "|---|---|---|---|---|---|",
    ]
    for case, words in zip(CASES, ("nobody", "a flood of 10 times the rows", "junk, half of all rows"), strict=True):
        each = found[case]
        lines.append(
            f"| {words} | {each['markers']} | {each['p50']:.2f} s | {each['p95']:.2f} s | {each['p99']:.2f} s | "
            f"{each['p99_rise']:+.1%} |"
        )
    return "\n".join(lines) + "\n"


def main() -> None:
    """Run the benchmark and write its result."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, value in asdict(Load()).items():
        parser.add_argument(f"--{name}", type=type(value), default=value)
    parser.add_argument("--out", type=Path, default=RESULT, help="folder of result.json and table.md")
    parser.add_argument("--work", type=Path, help="folder for the home; in memory it is faster, and measures the same")
    options = vars(parser.parse_args())
    work: Path | None = options.pop("work")
    out: Path = options.pop("out")
    with tempfile.TemporaryDirectory(prefix="anabranch-isolation-", dir=work) as folder:
        result = measure(Path(folder), Load(**options))
    out.mkdir(parents=True, exist_ok=True)
    (out / "result.json").write_text(json.dumps(result, indent=1) + "\n")
    (out / "table.md").write_text(table(result))
    print(table(result))


if __name__ == "__main__":
    main()
