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
import psutil
import pytest

from actors.exam import is_held_out
from cluster import builders
from configs.loader import load
from configs.settings import Settings
from streaming.broker import ApacheKafkaBroker, kafka_home
from streaming.location import StreamLocation, ensure_topic, open_sink
from streaming.records import EndOfDomain, TaskRecord
from streaming.source import RecordSink
from tests.e2e.system import System, run
from tests.faults.oracle import difference_from_batch

POINTS = int(os.environ.get("ANABRANCH_KILLS", "20"))
SEED = int(os.environ.get("ANABRANCH_SEED", "1"))
DOMAINS = {"birds": "wing", "boats": "sail", "trees": "leaf"}
PARTITIONS = 3
ROWS = 24
"""Of each domain at each point; a fifth of them are sent again later."""
VICTIMS = ("router", "coordinator", "directory", "ingest-0", "ingest-1", "learner-0", "everything")
LONGEST_PAUSE_S = 6.0
LONGEST_STILL_S = 240.0
"""Once nobody is killed any more, something must come on within this time: whatever failed is tried again after a
minute at most, and processes start slowly where many do at once."""
LONGEST_LEARNING_S = 300.0 + 6.0 * POINTS
"""Until all is learned, however well it comes on: most of it may wait when the kills end."""
STUCK_S = 10.0
"""For so long a domain must stand as it does before more is sent of it: a marker may still be under way."""
MOST_SENDS = 10
"""How often more of one domain is sent, as its versions are rejected."""
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

pytestmark = [pytest.mark.ray, pytest.mark.broker, pytest.mark.slow]
pytestmark.append(pytest.mark.timeout(600 + 40 * POINTS + 2 * LONGEST_LEARNING_S))


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
            records += self._new(domain)
        self._random.shuffle(records)
        for record in records:
            self._sink.append(record)
        for domain in DOMAINS:
            if self._random.random() < 0.4:
                self._sink.append(EndOfDomain(domain=domain))
        self._sink.flush()

    def send_more(self, domain: str) -> None:
        """New records of one domain, and its end, as an operator sends them whose version was rejected."""
        for record in self._new(domain):
            self._sink.append(record)
        self._sink.append(EndOfDomain(domain=domain))
        self._sink.flush()

    def counts(self) -> Counter[str]:
        """Records sent of each domain, each counted once."""
        return Counter(str(record.domain) for record in self.sent.values())

    def _new(self, domain: str) -> list[TaskRecord]:
        records = [_record(domain, len(self.sent) + number, self._random) for number in range(ROWS)]
        self.sent.update({record.id: record for record in records})
        return records

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
        system.start(400)
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
        system.start(400)
        _ends_exact(system, course, settings)
        course.note("exact on the backup")
    except BaseException as error:
        error.add_note(f"seed {SEED}, kills so far, by seconds: {course.steps}\n{_report(system, course)}")
        raise
    finally:
        sink.close()
        system.stop()
    _predicts_as_batch_ridge(load("demo", [f"home={backup}", *sets]), course)


def _run(*arguments: object) -> None:
    done = run(*map(str, arguments), timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr


def _ends_exact(system: System, course: Course, settings: Settings) -> None:
    _wait_until_all_is_learned(system, course)
    _counts_are_exact(system, course, settings.ingest.held_out_fraction)
    _domains_are_served(system)


def _kill(system: System, victim: str) -> None:
    """SIGKILL one actor's process, as soon as it has one, or everything at once, which is started again."""
    if victim == "everything":
        system.kill()
        system.start(400)
        return
    found: dict[str, Any] = {}

    def is_there() -> bool:
        found.update(_ask(system, "/actors"))
        return victim in found and found[victim]["state"] == "ALIVE"

    system.wait_for(is_there, 240, f"{victim} running", 0.05)
    with suppress(psutil.NoSuchProcess):
        psutil.Process(found[victim]["pid"]).kill()


def _ask(system: System, path: str) -> dict[str, Any]:
    """What is answered there; nothing where nobody can answer now."""
    with suppress(httpx.HTTPError):
        answer = httpx.get(f"{system.url}{path}", timeout=60)
        if answer.status_code == 200:
            return dict(answer.json())
    return {}


# -- coming to rest ---------------------------------------------------------------------------------------------------


def _wait_until_all_is_learned(system: System, course: Course) -> None:
    """Wait, and send more of a domain whose last version was rejected: its examples wait for new ones, by design.

    Raises AssertionError where nothing comes on for `LONGEST_STILL_S`, or not all within `LONGEST_LEARNING_S`.
    """
    began = time.monotonic()
    last: dict[str, Any] = {}
    since: dict[str, float] = {}
    sends: Counter[str] = Counter()
    while not _is_settled(status := _ask(system, "/v1/status"), course):
        now = time.monotonic()
        for name, figures in _figures(status).items():
            if last.get(name) != figures:
                last[name], since[name] = figures, now
        for domain in _waits_for_more(status, course):
            if now - since[domain] > STUCK_S and sends[domain] < MOST_SENDS:
                course.note(f"more of {domain}")
                course.send_more(domain)
                sends[domain] += 1
        still = now - max(since.values(), default=began)
        assert still < LONGEST_STILL_S, f"not all is learned, and nothing comes on for {still:.0f} s"
        assert now - began < LONGEST_LEARNING_S, f"not all is learned within {now - began:.0f} s"
        time.sleep(0.5)


def _is_settled(status: dict[str, Any], course: Course) -> bool:
    """Whether every record is known, nothing waits, and what is in force is served."""
    domains = {each["domain"]: each for each in status.get("domains", ())}
    return (
        {name: each["examples"] for name, each in domains.items()} == course.counts()
        and all(each["state"] == "published" and not _waiting(each) for each in domains.values())
        and {each["manifest"] for each in status["replicas"].values()} == {status["manifest"]}
    )


def _figures(status: dict[str, Any]) -> dict[str, Any]:
    """What changes as things come on, of each domain and each worker: no times, and no words that hold any."""
    kept = ("state", "examples", "router_rows", "waiting", "version", "progress")
    found: dict[str, Any] = {
        each["domain"]: [*(each[name] for name in kept), len(each["versions"])] for each in status.get("domains", ())
    }
    return found | {each["name"]: (each["polled"], each["spooled"]) for each in status.get("ingest", ())}


def _waits_for_more(status: dict[str, Any], course: Course) -> list[str]:
    """The domains of which something waits that no version is made of before more is sent.

    Either the newest version was rejected, which a coordinator that was started since does not say in `state`, or all
    that waits is held out.
    """
    return [
        each["domain"]
        for each in status.get("domains", ())
        if each["examples"] == course.counts()[each["domain"]]
        and each["state"] in ("open", "published", "rejected")
        and not each["waiting"]["sealed"]
        and _waiting(each)
        and (not each["waiting"]["train"] or _newest(each).get("status") == "rejected")
    ]


def _waiting(domain: dict[str, Any]) -> int:
    return int(domain["waiting"]["train"] + domain["waiting"]["held_out"])


def _newest(domain: dict[str, Any]) -> dict[str, Any]:
    """The version with the highest number; nothing where there is none."""
    numbered = {int(each["name"].rpartition("@v")[2].partition("-")[0]): each for each in domain["versions"]}
    return dict(numbered[max(numbered)]) if numbered else {}


def _report(system: System, course: Course) -> str:
    """How each domain, worker, replica and actor stands, a line each; whole, as the versions are only counted."""
    if not system.url:
        return "it was never up"
    status, sent = _ask(system, "/v1/status"), course.counts()
    lines = [f"manifest {status.get('manifest')}, unread {status.get('unread')}, trouble {status.get('trouble')}"]
    for each in status.get("domains", ()):
        versions = Counter(version["status"] for version in each["versions"])
        told = {name: value for name, value in each.items() if name != "versions"}
        newest = {name: value for name, value in _newest(each).items() if name != "figures"}
        lines.append(f"{told}, sent {sent[each['domain']]}, versions {dict(versions)}, newest {newest}")
    lines += map(str, status.get("ingest", ()))
    lines += [f"{name}: {each}" for name, each in status.get("replicas", {}).items()]
    lines += [f"{name}: {each}" for name, each in sorted(_ask(system, "/actors").items())]
    return "\n".join(lines if status else ["nobody tells the status", *lines[1:]])


# -- what must hold then ----------------------------------------------------------------------------------------------


def _counts_are_exact(system: System, course: Course, fraction: float) -> None:
    """Every id is known once, in the sums once if it is not held out, and trained once by the versions accepted; and
    nothing was lost."""
    trained = Counter(record.domain for record in course.sent.values() if not is_held_out(record, fraction))
    status = _ask(system, "/v1/status")
    domains = {each["domain"]: each for each in status["domains"]}
    assert {name: each["examples"] for name, each in domains.items()} == course.counts()
    assert {name: each["router_rows"] for name, each in domains.items()} == trained
    by_versions = {
        name: sum(version["examples"] for version in each["versions"] if version["status"] == "accepted")
        for name, each in domains.items()
    }
    assert by_versions == trained
    assert not any(each["lost"] for each in domains.values()) and not status["unread"]


def _domains_are_served(system: System) -> None:
    """Each domain is answered by the version that the manifest in force names, and that manifest is the newest."""
    status = _ask(system, "/v1/status")
    assert {each["manifest"] for each in status["replicas"].values()} == {status["manifest"]}
    for each in status["domains"]:
        body = {"model": each["domain"], "messages": [{"role": "user", "content": "hello"}]}
        answer = httpx.post(f"{system.url}/v1/chat/completions", json=body, timeout=60)
        assert answer.headers["x-anabranch-adapter"] == each["version"], answer.text


def _predicts_as_batch_ridge(settings: Settings, course: Course) -> None:
    """The published router's scores against one ridge solve over all training examples (relative 1e-10)."""
    fraction = settings.ingest.held_out_fraction
    records = [record for record in course.sent.values() if not is_held_out(record, fraction)]
    assert {str(record.domain) for record in records} == set(DOMAINS)
    assert difference_from_batch(settings, records) <= 1e-10
