"""Exactness under any course of events (`courses` draws them, `judgement` says what must hold).

One course again: `COURSE=4711 pytest tests/actors/test_courses.py`. Thousands of them:
`python -m tests.actors.courses 0 10000`.
"""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from registry.layout import Layout, SnapshotName
from registry.registry import Registry
from tests.actors import courses
from tests.actors.house import partition
from tests.actors.judgement import judge
from tests.actors.memory_log import MemoryLog, MemorySource
from tests.actors.world import World

QUICK, MANY = 80, 2_000
TOGETHER = 20
"""Courses in one test: each is a matter of milliseconds."""


@pytest.mark.parametrize("first", range(0, QUICK, TOGETHER))
def test_a_course_ends_with_everything_counted_once_and_learned_once(first: int) -> None:
    for seed in range(first, first + TOGETHER):
        courses.run(seed)


@pytest.mark.slow
@pytest.mark.parametrize("first", range(QUICK, MANY, 100))
def test_many_courses_do(first: int) -> None:
    for seed in range(first, first + 100):
        courses.run(seed)


@pytest.mark.skipif("COURSE" not in os.environ, reason="no course is asked for in COURSE")
def test_the_course_asked_for() -> None:
    courses.run(int(os.environ["COURSE"]))


# -- what the courses stand on ----------------------------------------------------------------------------------------


def test_reading_passes_over_what_compaction_took() -> None:
    log = MemoryLog(1)
    for number in range(8):
        log.append(courses.example("alpha", number))
    source = MemorySource(log, lambda _: 0, 0)
    log.compact(partition(0), (1, 2, 3, 4, 7))
    assert [entry.offset for entry in source.poll(0.0, 2)] == [0, 5]
    assert source.positions() == {partition(0): 6}
    assert [entry.offset for entry in source.poll(0.0, 9)] == [6, 7], "the last entry stays"
    assert source.lag() == {partition(0): 0}
    assert [entry.offset for entry in log.append(courses.example("alpha", 8))] == [8]


def test_what_was_compacted_before_anybody_read_it_is_nobodys_loss() -> None:
    """And everything else counts: the judgement excuses no more than that."""
    sent = ("send", "alpha", tuple(range(20)), 0, False)
    world = courses.run(0, [("world", 1, 10_000), sent, ("compact", 0, 0.5)])
    gone = world.stream.log.compacted[partition(0)]
    offsets = {row.offset for row in world.router.inner.counted["alpha"].values() if row.partition == partition(0)}
    assert len(gone) >= 8
    assert offsets & set(range(20)) == set(range(20)) - gone


@pytest.mark.parametrize("way", ["the disk is full", "the process dies"])
def test_the_books_know_a_commit_that_failed_before_the_head(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, way: str
) -> None:
    """A person may go back to its root: what is in force then was never heard of as committed."""
    world = World(tmp_path)
    for domain in ("alpha", "beta"):
        for number in range(4):
            world.put(courses.example(domain, number))
    for index in range(2):
        # Before anything is polled it is known where the router stands.
        world.observe_one(index)
        while world.poll_one(index) or world.observe_one(index):
            pass
    world.router.seal("alpha", 1, world.router.observed())
    before = _roots(world)

    def fail(*_: object) -> None:
        if way == "the disk is full":
            raise OSError(errno.ENOSPC, "no space left on device")
        raise KeyboardInterrupt

    registry = world.router.inner.router._registry
    with monkeypatch.context() as patch, pytest.raises((OSError, KeyboardInterrupt)):
        patch.setattr(registry._head, "place", fail)
        world.router.seal("beta", 1, world.router.observed())
    (failed,) = _roots(world) - before
    assert [len(commit.counted) for commit in world.books.line(failed.digest)] == [2, 2]

    path = registry.root / Layout(registry.storage).snapshot(*failed).key
    os.utime(path, ns=(path.stat().st_atime_ns, path.stat().st_mtime_ns + 10**9))
    world.damage_and_go_back("head")
    assert Registry(registry.root).head().snapshot_digest == failed.digest
    world.rest()
    judge(world)


def _roots(world: World) -> set[SnapshotName]:
    return set(Layout(world.registry.storage).snapshot_names())
