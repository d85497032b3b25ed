"""Processes killed with SIGKILL at random points while domains are streamed, learned and published: Kafka and Ray are
real, the engine is not.

`ANABRANCH_KILLS` is the number of points (20), `ANABRANCH_SEED` chooses the course. What each point did stands in the
report of a failure, and in `kills.json` below the test's folder.
"""

from __future__ import annotations

import json
import os
import random
import sys
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import psutil
import pytest

from actors.exam import is_held_out
from cluster import builders
from configs.loader import load
from configs.settings import Settings
from learning.rls import RouterWeights
from streaming.broker import ApacheKafkaBroker, kafka_home
from streaming.location import StreamLocation, ensure_topic, open_sink
from streaming.records import EndOfDomain, TaskRecord
from streaming.source import RecordSink
from tests.e2e.system import System, run

POINTS = int(os.environ.get("ANABRANCH_KILLS", "20"))
SEED = int(os.environ.get("ANABRANCH_SEED", "1"))
DOMAINS = {"birds": "wing", "boats": "sail", "trees": "leaf"}
PARTITIONS = 3
ROWS = 24
"""Of each domain at each point; a fifth of them are sent again later."""
VICTIMS = ("router", "coordinator", "directory", "ingest-0", "ingest-1", "learner-0", "everything")
LONGEST_PAUSE_S = 6.0
COMMAND = [sys.executable, "-m", "tests.faults.program"]
SETS = [
    "ray.max_restarts=-1",
    f"stream.partitions={PARTITIONS}",
    "stream.session_timeout_ms=6000",
    "stream.max_poll_interval_ms=60000",
    "ingest.workers=2",
    "ingest.num_cpus=0.1",
    "ingest.block_rows=16",
    "closing.settle_seconds=1",
    "features.expansion=256",
    "features.layers=[0]",
    "learner.num_cpus=0.1",
    "learner.max_steps=10",
    "learner.warmup_steps=1",
    "learner.patience=null",
    "learner.evaluate_every=10",
    "learner.learning_rate=1.0e-2",
    "learner.rank=4",
    "registry.keep_versions=1000",
]

pytestmark = [pytest.mark.ray, pytest.mark.broker, pytest.mark.slow, pytest.mark.timeout(400 + 40 * POINTS)]


class Course:
    """What is sent and who is killed, drawn from one seed; `sent` holds every record once."""

    def __init__(self, seed: int, sink: RecordSink, report: Path) -> None:
        self._random = random.Random(seed)
        self._sink, self._report, self._began = sink, report, time.monotonic()
        self._victims: list[str] = []
        self.sent: dict[str, TaskRecord] = {}
        self.steps: list[tuple[float, str]] = []

    def send(self) -> None:
        """New records of every domain among some that were sent before, and now and then the end of a domain."""
        again = self._random.sample(sorted(self.sent), len(self.sent) // 5) if len(self.sent) < 400 else []
        records = [self.sent[each] for each in again]
        for domain in DOMAINS:
            for _ in range(ROWS):
                number = len(self.sent)
                record = _record(domain, number, self._random)
                self.sent[record.id] = record
                records.append(record)
        self._random.shuffle(records)
        for record in records:
            self._sink.append(record)
        for domain in DOMAINS:
            if self._random.random() < 0.4:
                self._sink.append(EndOfDomain(domain=domain))
        self._sink.flush()

    def end(self) -> None:
        """The last marker of every domain."""
        for domain in DOMAINS:
            self._sink.append(EndOfDomain(domain=domain))
        self._sink.flush()

    def note(self, what: str) -> None:
        """Note what happens now, for whoever reads the course afterwards."""
        self.steps.append((round(time.monotonic() - self._began, 1), what))
        self._report.write_text(json.dumps(self.steps))

    def next_victim(self) -> str:
        """Each kind in turn, in an order of its own."""
        if not self._victims:
            self._victims = self._random.sample(VICTIMS, len(VICTIMS))
        return self._victims.pop()

    def pause(self) -> float:
        """Seconds until the next kill: often short, so that also a start is hit."""
        return LONGEST_PAUSE_S * self._random.random() ** 2


def _record(domain: str, number: int, chance: random.Random) -> TaskRecord:
    words = " ".join(chance.choice(["red", "old", "big", "new", "far"]) for _ in range(3))
    return TaskRecord(
        id=f"{domain}-{number}", domain=domain, prompt=f"{domain} {number} {words}", completion=DOMAINS[domain]
    )


@pytest.fixture
def sets(tmp_path: Path) -> Iterator[list[str]]:
    """The overrides that lead to a Kafka of this test's own."""
    home = kafka_home()
    if home is None:
        pytest.skip("no Apache Kafka: set KAFKA_HOME to a folder with libs/*.jar")
    with ApacheKafkaBroker(home, tmp_path / "broker") as broker:
        yield [*SETS, "stream.kind=kafka", f"stream.bootstrap={broker.bootstrap}", "stream.topic=kills"]


def test_every_row_counts_once_whoever_is_killed(tmp_path: Path, sets: list[str]) -> None:
    """And a system that is started on a backup from the middle of it ends in the same place."""
    home, backup = tmp_path / "home", tmp_path / "backup"
    settings = load("demo", [f"home={home}", *sets])
    location: StreamLocation = builders.stream_location(settings)
    ensure_topic(location, PARTITIONS)
    sink = open_sink(location)
    course = Course(SEED, sink, tmp_path / "kills.json")
    system = System("demo", home, sets, COMMAND)
    try:
        system.start()
        course.note("started")
        for point in range(POINTS):
            course.send()
            if point == POINTS // 2:
                _run("home", "backup", home, backup)
            time.sleep(course.pause())
            course.note(victim := course.next_victim())
            _kill(system, victim)
        course.note("all killed")
        course.end()
        _ends_exact(system, course, settings)
        course.note("exact")
        system.stop()
        _run("home", "check", home)
        _predicts_as_batch_ridge(settings, course)

        system = System("demo", backup, sets, COMMAND)
        system.start()
        _ends_exact(system, course, settings)
        course.note("exact on the backup")
    except BaseException as error:
        error.add_note(f"seed {SEED}, kills so far, by seconds: {course.steps}; last status: {_last_status(system)}")
        raise
    finally:
        sink.close()
        system.stop()
    _predicts_as_batch_ridge(load("demo", [f"home={backup}", *sets]), course)


def _run(*arguments: object) -> None:
    done = run(*map(str, arguments))
    assert done.returncode == 0, done.stdout + done.stderr


def _ends_exact(system: System, course: Course, settings: Settings) -> None:
    system.wait_for(lambda: _is_settled(system, course), 240, "all learned", 0.5)
    _counts_are_exact(system, course, settings.ingest.held_out_fraction)
    _domains_are_served(system)


def _kill(system: System, victim: str) -> None:
    """SIGKILL one actor's process, as soon as it has one, or everything at once, which is started again."""
    if victim == "everything":
        system.kill()
        system.start()
        return
    found: dict[str, int] = {}

    def is_there() -> bool:
        found.update(httpx.get(f"{system.url}/actors", timeout=60).json())
        return victim in found

    system.wait_for(is_there, 120, f"{victim} running", 0.05)
    with suppress(psutil.NoSuchProcess):
        psutil.Process(found[victim]).kill()


def _is_settled(system: System, course: Course) -> bool:
    """Whether every record is known, and nothing waits."""
    status = _status(system)
    if status is None or {d["domain"] for d in status["domains"]} != set(DOMAINS):
        return False
    known = sum(d["examples"] for d in status["domains"])
    return known >= len(course.sent) and all(
        d["state"] == "published" and not d["waiting"]["train"] and not d["waiting"]["held_out"]
        for d in status["domains"]
    )


def _status(system: System) -> dict[str, Any] | None:
    """The status, where somebody can tell it now."""
    with suppress(httpx.HTTPError):
        answer = httpx.get(f"{system.url}/v1/status", timeout=60)
        if answer.status_code == 200:
            return dict(answer.json())
    return None


def _last_status(system: System) -> str:
    return json.dumps(_status(system))[:6000] if system.url else "never up"


def _counts_are_exact(system: System, course: Course, fraction: float) -> None:
    """Every id is known once, in the sums once if it is not held out, and trained once by the versions accepted; and
    nothing was lost."""
    known = Counter(record.domain for record in course.sent.values())
    trained = Counter(record.domain for record in course.sent.values() if not is_held_out(record, fraction))
    status = _status(system)
    assert status is not None
    domains = {each["domain"]: each for each in status["domains"]}
    assert {name: each["examples"] for name, each in domains.items()} == known
    assert {name: each["router_rows"] for name, each in domains.items()} == trained
    by_versions = {
        name: sum(version["examples"] for version in each["versions"] if version["status"] == "accepted")
        for name, each in domains.items()
    }
    assert by_versions == trained
    assert not any(each["lost"] for each in domains.values()) and not status["unread"]


def _domains_are_served(system: System) -> None:
    """Each domain is answered by the version that the manifest in force names, and that manifest is the newest."""
    status = _status(system)
    assert status is not None
    assert {each["manifest"] for each in status["replicas"].values()} == {status["manifest"]}
    for each in status["domains"]:
        body = {"model": each["domain"], "messages": [{"role": "user", "content": "hello"}]}
        answer = httpx.post(f"{system.url}/v1/chat/completions", json=body, timeout=60)
        assert answer.headers["x-anabranch-adapter"] == each["version"], answer.text


def _predicts_as_batch_ridge(settings: Settings, course: Course) -> None:
    """The published router's scores against one ridge solve over all training examples (relative 1e-10)."""
    registry = builders.registry(settings)
    manifest = registry.current()
    assert manifest is not None
    template = builders.template(settings)
    records = [r for r in course.sent.values() if not is_held_out(r, settings.ingest.held_out_fraction)]
    features = builders.extractor(settings).extract([template.render(r.messages_or_prompt()) for r in records])
    names = sorted(DOMAINS)
    targets = np.array([[record.domain == name for name in names] for record in records], dtype=float)
    gram = features.T @ features + settings.router.ridge * np.eye(features.shape[1])
    expected = features @ np.linalg.solve(gram, features.T @ targets)
    weights = RouterWeights.from_bytes(registry.weights(manifest))
    assert list(weights.domains) == names
    assert np.linalg.norm(weights.scores(features) - expected) <= 1e-10 * np.linalg.norm(expected)
