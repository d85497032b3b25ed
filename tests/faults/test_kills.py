"""Processes killed with SIGKILL at random points while domains are streamed, learned and published: Kafka and Ray are
real, the engine is not.

`ANABRANCH_KILLS` is the number of points (20), `ANABRANCH_SEED` chooses the course. What each point did stands in the
report of a failure, and in `kills.json` below the test's folder.
"""

from __future__ import annotations

import os
import random
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil
import pytest

from cluster import builders
from configs.loader import load
from streaming.broker import ApacheKafkaBroker
from streaming.location import StreamLocation, ensure_topic, open_sink
from tests.e2e.system import System, run
from tests.faults.course import PARTITIONS, SMALL, Course
from tests.faults.settling import ask, ends_exact, predicts_as_batch_ridge, report

POINTS = int(os.environ.get("ANABRANCH_KILLS", "20"))
SEED = int(os.environ.get("ANABRANCH_SEED", "1"))
VICTIMS = ("router", "coordinator", "directory", "ingest-0", "ingest-1", "learner-0", "everything")
LONGEST_PAUSE_S = 6.0
LONGEST_LEARNING_S = 300.0 + 6.0 * POINTS
"""Until all is learned, however well it comes on: most of it may wait when the kills end."""
COMMAND = [sys.executable, "-m", "tests.faults.program"]
SETS = [
    *SMALL,
    "registry.keep_versions=1000",
]

pytestmark = [pytest.mark.ray, pytest.mark.broker, pytest.mark.slow]
pytestmark.append(pytest.mark.timeout(600 + 40 * POINTS + 2 * LONGEST_LEARNING_S))


@pytest.fixture
def sets(broker: ApacheKafkaBroker) -> list[str]:
    """The overrides that lead to a Kafka of this test's own."""
    return [*SETS, "stream.kind=kafka", f"stream.bootstrap={broker.bootstrap}", "stream.topic=kills"]


def test_every_row_counts_once_whoever_is_killed(tmp_path: Path, sets: list[str]) -> None:
    """And a system that is started on a backup from the middle of it ends in the same place."""
    home, backup = tmp_path / "home", tmp_path / "backup"
    settings = load("demo", [f"home={home}", *sets])
    location: StreamLocation = builders.stream_location(settings)
    ensure_topic(location, PARTITIONS)
    sink = open_sink(location)
    course, victims = Course(SEED, sink, tmp_path / "kills.json"), _Victims(SEED)
    system = System("demo", home, sets, COMMAND)
    try:
        system.start(400)
        course.note("started")
        for point in range(POINTS):
            course.send()
            if point == POINTS // 2:
                _run("home", "backup", home, backup)
            time.sleep(victims.pause())
            course.note(victim := victims.next())
            _kill(system, victim)
        course.note("all killed")
        course.end()
        ends_exact(system, course, settings, LONGEST_LEARNING_S)
        course.note("exact")
        system.stop()
        _run("home", "check", home)
        predicts_as_batch_ridge(settings, course)

        system = System("demo", backup, sets, COMMAND)
        system.start(400)
        ends_exact(system, course, settings, LONGEST_LEARNING_S)
        course.note("exact on the backup")
    except BaseException as error:
        error.add_note(f"seed {SEED}, kills so far, by seconds: {course.steps}\n{report(system, course)}")
        raise
    finally:
        sink.close()
        system.stop()
    predicts_as_batch_ridge(load("demo", [f"home={backup}", *sets]), course)


def _run(*arguments: object) -> None:
    done = run(*map(str, arguments), timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr


class _Victims:
    """Who is killed next, and when: each kind in turn, in an order of its own."""

    def __init__(self, seed: int) -> None:
        self._random = random.Random(seed)
        self._left: list[str] = []

    def next(self) -> str:
        if not self._left:
            self._left = self._random.sample(VICTIMS, len(VICTIMS))
        return self._left.pop()

    def pause(self) -> float:
        """Seconds until the next kill: often short, so that also a start is hit."""
        return LONGEST_PAUSE_S * self._random.random() ** 2


def _kill(system: System, victim: str) -> None:
    """SIGKILL one actor's process, as soon as it has one, or everything at once, which is started again."""
    if victim == "everything":
        system.kill()
        system.start(400)
        return
    found: dict[str, Any] = {}

    def is_there() -> bool:
        found.update(ask(system, "/actors"))
        return victim in found and found[victim]["state"] == "ALIVE"

    system.wait_for(is_there, 240, f"{victim} running", 0.05)
    with suppress(psutil.NoSuchProcess):
        psutil.Process(found[victim]["pid"]).kill()
