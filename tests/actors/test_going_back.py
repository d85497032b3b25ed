"""Going back behind a snapshot: a spool that rests on it says so, whatever it was that it did by it."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import pytest

from actors.coverage import Span
from actors.errors import SpoolAhead
from streaming.records import EndOfDomain
from tests.actors.house import House, partition, records_of
from tests.actors.memory_log import MemoryStream

Build = Callable[..., House]


def test_what_a_spool_gave_up_rests_on_the_snapshot_that_says_so(build: Build, tmp_path: Path) -> None:
    stream = MemoryStream(1)
    house = build(partitions=1, stream=stream)
    house.send(records_of("alpha", 8))
    stream.truncate(partition(0), 3)
    house.poll()
    house.back_up(tmp_path / "backup")
    house.tick()
    assert [(loss.first, loss.last) for loss in house.router.unread()] == [(0, 2)]
    house.restore(tmp_path / "backup")
    with pytest.raises(SpoolAhead, match="home reread"):
        house.poll()


def test_what_a_spool_dropped_as_settled_rests_on_the_snapshot_that_settled_it(build: Build, tmp_path: Path) -> None:
    """Read again, rows are asked for one by one; the router answers by a snapshot that the worker has not heard of."""
    house = build(partitions=1, stream=MemoryStream(1))
    house.send([*records_of("alpha", 24), EndOfDomain(domain="alpha")])
    house.drain()
    house.back_up(tmp_path / "backup")
    following = house.ingests[0]._following
    following._asked_at = time.monotonic() + 1000.0
    while house.version("alpha") != 1:
        house.tick()
    with following.reading([Span(partition(0), 0, 1)]):
        pass
    while house.observe():
        pass
    assert not house.waiting("alpha")
    house.restore(tmp_path / "backup")
    with pytest.raises(SpoolAhead, match="home reread"):
        house.poll()
