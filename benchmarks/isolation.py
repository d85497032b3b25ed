"""What a flood and a junk domain cost healthy domains beside them: the time from a marker to the published version.

Healthy domains send small batches, each with its marker, at random times: alone, beside a flood of ten times their
rows, and beside a junk domain of half of all rows, marked four times as often, whose every version the gate rejects.
The three take turns in one run, so that whatever else the machine does meets all of them. Stream (embedded, one
partition), ingest, router, registry, gate and coordinator are the real ones in one process; features are a hash of the
text, a training is a fixed time, shorter than real ones, and a replica takes any manifest at once: what those cost is
not the claim. There is a learner for each domain, as no order of turns helps where learners are too few.
Run it with `python -m benchmarks.isolation`.
"""

from __future__ import annotations

import argparse
import json
import random
import tempfile
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from hashlib import shake_256
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
    """Rows of a healthy domain's batch, seconds between its markers on average, domains, learners, seconds a training
    takes, seconds of a turn, and how many turns each case has."""

    rows: int = 20
    period: float = 12.0
    domains: int = 10
    learners: int = 12
    service: float = 5.0
    seconds: float = 15.0
    rounds: int = 12

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

    def render(self, messages: Sequence[dict[str, str]]) -> str:
        """Return the text of the prompt."""
        return messages[-1]["content"]


class FixedTime:
    """Takes its time and writes an adapter: worse than the base for junk, better than what serves for the others."""

    name = "fixed"

    def __init__(self, seconds: float) -> None:
        self._seconds, self.rows = seconds, list[tuple[str, int]]()

    def train(self, job: TrainingJob, on_progress: Callable[[Progress], None] | None = None) -> TrainingResult:
        """Learn nothing."""
        ends = time.monotonic() + self._seconds
        self.rows.append((job.domain, len(job.train)))
        (job.output / "adapter_config.json").write_text(json.dumps({"peft_type": "LORA", "r": 2}))
        weights = {"layers.0.lora_A.weight": np.random.default_rng().normal(size=(2, 16)).astype(np.float32)}
        safetensors.numpy.save_file(weights, job.output / "adapter_model.safetensors")
        last = job.of_domain()[-1] if job.of_domain() else None
        loss = 3.0 if job.domain == "junk" else 1.0
        candidate, base, before = (Evaluation(each, 0.0, len(job.held_out)) for each in (loss, 2.0, 1.5))
        compared = (candidate, base, before if last else None)
        made = NewAdapter(job.domain, job.output, 2, last.segment if last else None, *compared)
        time.sleep(max(ends - time.monotonic(), 0.0))
        return TrainingResult((made,), 1, 1.0, self._seconds, loss)


class OneAtATime:
    """The router as an actor: one call after another."""

    def __init__(self, inner: Router) -> None:
        self._inner, self._lock = inner, threading.Lock()

    def __getattr__(self, name: str) -> Callable[..., Any]:
        def call(*args: Any) -> Any:
            with self._lock:
                return getattr(self._inner, name)(*args)

        return call


class Watch:
    """The replica, which takes any manifest at once, and the clock: when was what a marker closed published?"""

    def __init__(self, registry: Registry, rows: int) -> None:
        self._registry, self._rows, self._number = registry, rows, 0
        self._sent: dict[str, deque[tuple[str, float]]] = {}
        self._learned: dict[str, dict[str, int]] = {}
        self._lock = threading.Lock()
        self.taken: dict[str, list[float]] = {case: [] for case in CASES}

    def sends(self, domain: str, case: str) -> None:
        """Note that a marker of a healthy domain is sent now."""
        with self._lock:
            self._sent.setdefault(domain, deque()).append((case, time.monotonic()))

    def waiting(self) -> int:
        """Markers whose versions are not published."""
        with self._lock:
            return sum(map(len, self._sent.values()))

    def publish(self, number: int, one_by_one: bool = False) -> PublicationReport:
        """Take a manifest; the version of a domain answers as many of its markers as it has learned batches."""
        now = time.monotonic()
        with self._lock:
            self._number = number
            for domain, route in self._registry.manifest(number).routes.items():
                learned = self._learned.setdefault(domain, {})
                if domain not in self._sent or route.adapter in learned:
                    continue
                before = sum(learned.values()) // self._rows
                learned[route.adapter] = self._registry.adapter(route.adapter).facts.train_examples
                for _ in range(sum(learned.values()) // self._rows - before):
                    case, sent = self._sent[domain].popleft()
                    self.taken[case].append(now - sent)
        return PublicationReport(number, 1, {}, 0.0)

    def in_force(self) -> int:
        """Return the manifest that is served."""
        return self._number

    def replicas(self) -> dict[str, ReplicaStatus]:
        """Describe the one replica."""
        return {"replica": ReplicaStatus(manifest=self._number)}


class OneProcess:
    """All of it, running; `send` and `mark` feed it."""

    def __init__(self, home: Path, load: Load) -> None:
        location = StreamLocation("embedded", "stream", path=home / "stream.sqlite")
        ensure_topic(location, _PARTITIONS)
        self.sink, letters = open_sink(location), open_dead_letters(location)
        registry = Registry(home / "registry", writer=True)
        router: Any = OneAtATime(Router(registry, _BASE, RouterOptions(ridge=10.0, background=False)))
        features: Any = HashFeatures()
        template: Any = LastMessage()
        self.ingest = Ingest(
            lambda start_at: open_source(location, group="bench", start_at=start_at, member=0, members=1),
            letters,
            Spool(home / "spool.sqlite"),
            features,
            template,
            router,
            _LIMITS,
        )
        self.method, self.watch = FixedTime(load.service), Watch(registry, load.rows - load.rows // 4)
        learners = {
            f"learner-{index}": LearnerWorker(self.method, home / f"learner-{index}", [self.ingest], ExamLimits(0, 1))
            for index in range(load.learners)
        }
        closing = ClosingRule(count=None, quiet_seconds=60.0, settle_seconds=5.0)
        options = CoordinatorOptions(closing, Gate(exam_rows=0), Method("fixed", 0), 2, 20, 3)
        self.coordinator = Coordinator(registry, _BASE, {"ingest": self.ingest}, router, learners, self.watch, options)
        self._numbers: dict[str, int] = {}

    def send(self, domain: str, rows: int) -> None:
        """Send rows of a domain, every fourth for its exam."""
        first = self._numbers.get(domain, 0)
        self._numbers[domain] = first + rows
        for number in range(first, first + rows):
            split: Any = "test" if number % 4 == 3 else "train"
            text = f"{domain} asks {number}, at some length, as examples do"
            self.sink.append(
                TaskRecord(id=f"{domain}-{number}", domain=domain, prompt=text, completion="so", split=split)
            )
        self.sink.flush()

    def mark(self, domain: str) -> None:
        """Send the domain's marker."""
        self.sink.append(EndOfDomain(domain=domain))
        self.sink.flush()


@contextmanager
def running(home: Path, load: Load) -> Iterator[OneProcess]:
    """A system that runs by itself."""
    system = OneProcess(home, load)
    system.ingest.start()
    system.coordinator.start()
    try:
        yield system
    finally:
        system.coordinator.stop()
        system.ingest.stop()
        system.sink.close()


def turn(system: OneProcess, load: Load, case: str, seed: int) -> None:
    """Send one turn's load, and wait until all that healthy domains sent is published."""
    chance, events = random.Random(seed), list[tuple[float, str]]()
    for index in range(load.domains):
        at = chance.uniform(0.0, load.period)
        while at < load.seconds:
            events.append((at, f"healthy-{index}"))
            at += chance.uniform(0.5, 1.5) * load.period
    if case != "alone":
        events += [(0.1 * step, case) for step in range(int(load.seconds * 10))]
    rate = {"flood": 10 * load.rate, "junk": load.rate}.get(case, 0.0)
    between = {"flood": load.period, "junk": load.period / 4}.get(case, 0.0)
    marked, began = 0.0, time.monotonic()
    for at, who in sorted(events):
        time.sleep(max(began + at - time.monotonic(), 0.0))
        if who == case:
            system.send(who, round(rate / 10))
            if at - marked >= between:
                marked = at
                system.mark(who)
        else:
            system.send(who, load.rows)
            system.watch.sends(who, case)
            system.mark(who)
    deadline = time.monotonic() + 60.0
    while system.watch.waiting() or system.coordinator.status().trouble:
        if time.monotonic() > deadline:
            raise SystemExit(f"{case}: not all was published: {system.coordinator.status()}")
        time.sleep(0.1)


def measure(home: Path, load: Load) -> dict[str, Any]:
    """All figures of one run, as they go into the result file."""
    hardware = describe(("numpy", "safetensors", "pydantic"))
    with running(home, load) as system:
        turn(system, load, "alone", 0)
        for case in CASES:
            system.watch.taken[case].clear()
        for number in range(load.rounds):
            # In another order each time: none is always the one after the flood.
            for place in range(len(CASES)):
                turn(system, load, CASES[(place + number) % len(CASES)], 1 + number)
        taken, trained = system.watch.taken, system.method.rows
        junk = next((each for each in system.coordinator.domains() if each.domain == "junk"), None)
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
    options = vars(parser.parse_args())
    out: Path = options.pop("out")
    with tempfile.TemporaryDirectory(prefix="anabranch-isolation-") as folder:
        result = measure(Path(folder), Load(**options))
    out.mkdir(parents=True, exist_ok=True)
    (out / "result.json").write_text(json.dumps(result, indent=1) + "\n")
    (out / "table.md").write_text(table(result))
    print(table(result))


if __name__ == "__main__":
    main()
