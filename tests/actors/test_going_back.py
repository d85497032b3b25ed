"""Going back behind a snapshot: a spool that rests on it says so, whatever it was that it did by it."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from actors.coverage import Span
from actors.errors import SpoolAhead, UnknownDomain
from actors.spool_file import delete_file
from registry.registry import Registry
from streaming.records import EndOfDomain
from tests.actors.house import House, partition, records_of, training
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


def keeping_all(house: House) -> House:
    """Let the house keep every snapshot."""
    options = replace(house.coordinator_options(), keep_snapshots=100)
    house.coordinator_options = lambda: options  # type: ignore[method-assign]
    house.coordinator.stop()
    house.start_coordinator()
    return house


def go_back(house: House, far_enough: Callable[[Any], bool]) -> None:
    """Stop, go back until the ledger's entry of alpha is as wanted, and start again with no spool; versions stay."""
    house._die()
    registry = Registry(house.home / "registry")
    while not far_enough(registry.go_back()[0].state["ledger"]["domains"]["alpha"]):
        pass
    delete_file(house.spool_path(0))
    house.up()


def test_a_version_that_was_undone_is_not_served_again(build: Build) -> None:
    """Its examples are open again, and trained on once more in the version after it."""
    house = keeping_all(build(partitions=1, stream=MemoryStream(1)))
    first, more = records_of("alpha", 16), records_of("alpha", 16, start=16)
    house.send([*first, EndOfDomain(domain="alpha")])
    house.learn("alpha")
    house.send([*more, EndOfDomain(domain="alpha")])
    house.learn("alpha", 2)
    undone = house.served("alpha")
    go_back(house, lambda entry: entry["seal"] is None)
    for command in (house.coordinator.pin, house.coordinator.rollback):
        with pytest.raises(UnknownDomain, match="undone by going back"):
            command("alpha", undone)
    house.learn("alpha", 3)
    assert house.trained("alpha")[-1] == tuple(sorted(record.id for record in training(more)))
    assert house.coordinator.rollback("alpha").routes["alpha"].version == 1
    house.check_exact(training([*first, *more]))


def test_a_version_made_of_other_examples_than_are_sealed_is_not_published(build: Build) -> None:
    """Some of those sealed were lost, the version was made of the rest, and somebody went back to before the loss."""
    stream = MemoryStream(1)
    house = keeping_all(build(partitions=1, stream=stream))
    house.send(records_of("alpha", 16))
    house.drain()
    house.router.seal("alpha", 1, dict(house.router.observed()))
    house.delete_spool()
    stream.truncate(partition(0), 2)
    house.learn("alpha")
    go_back(house, lambda entry: entry["seal"] is not None and entry["seal"][2] == 12)
    house.settle(lambda: house.is_in("alpha", "rejected"))
    assert house.version("alpha") is None and "other examples" in house.state("alpha").detail  # type: ignore[union-attr]
    house.send([*records_of("alpha", 4, start=16), EndOfDomain(domain="alpha")])
    house.learn("alpha", 2)
    assert house.trained("alpha")[-1] == tuple(
        sorted(record.id for record in training(records_of("alpha", 18, start=2)))
    )
