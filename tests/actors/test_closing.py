"""Closing in the whole system: by the workers' own ages, on busy workers too, and where the room is needed."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import pytest

from actors.backlog import DomainBacklog, merge_backlogs
from actors.closing import ClosingRule
from streaming.records import EndOfDomain
from tests.actors.house import House, limits, partition, records_of

Build = Callable[..., House]
LONG_AGO = 3600.0


def quiet(seconds: float) -> ClosingRule:
    return ClosingRule(count=None, quiet_seconds=seconds, settle_seconds=seconds)


def age(house: House, domain: str, seconds: float, worker: int = 0) -> None:
    """Let a domain have been quiet for some more seconds, on its worker's clock."""
    known = house.ingests[worker]._quiet
    known._stirred[domain] = known._stirred.get(domain, known._started) - seconds


def closed(house: House) -> set[str]:
    house.tick()
    return {asked[0] for asked in house.trainer.asked}


def test_two_workers_hold_what_they_hold_together() -> None:
    ours = {"alpha": DomainBacklog(train=3, fresh=3, markers=frozenset({partition(0)}), quiet_seconds=9)}
    theirs = {
        "alpha": DomainBacklog(train=2, held_out=1, fresh=1, unobserved=4, sealed=frozenset({2}), quiet_seconds=2),
        "beta": DomainBacklog(train=1, quiet_seconds=5),
    }
    assert merge_backlogs([ours, theirs]) == {
        "alpha": DomainBacklog(5, 1, 4, 4, frozenset({partition(0)}), frozenset({2}), 2),
        "beta": theirs["beta"],
    }


@pytest.mark.parametrize("ahead", [120.0, -120.0, 1e9])
def test_no_clock_on_the_wall_closes_anything(build: Build, monkeypatch: pytest.MonkeyPatch, ahead: float) -> None:
    house = build(closing=quiet(60.0))
    house.send(records_of("alpha", 24))
    house.drain()
    now = time.time
    monkeypatch.setattr(time, "time", lambda: now() + ahead)
    assert closed(house) == set()
    age(house, "alpha", 61.0)
    assert closed(house) == {"alpha"}, "and none keeps it open"


def test_a_busy_worker_closes_what_is_quiet(build: Build) -> None:
    """Rows of another domain wait to be observed at every report: a worker that is never done."""
    house = build(partitions=1, closing=quiet(60.0))
    house.send(records_of("alpha", 24))
    house.drain()
    age(house, "alpha", 61.0)
    house.send(records_of("beta", 24))
    house.poll()
    assert house.ingests[0].report().backlog["beta"].unobserved == 24
    assert closed(house) == {"alpha"}


def test_a_domain_whose_own_rows_wait_is_not_quiet(build: Build) -> None:
    house = build(partitions=1, closing=quiet(60.0))
    house.send(records_of("alpha", 24))
    house.drain()
    house.send(records_of("alpha", 8, start=24))
    house.poll()
    age(house, "alpha", LONG_AGO)
    assert closed(house) == set()
    house.drain()
    assert closed(house) == set(), "it counts from when its last row was observed, not from when that row came"
    age(house, "alpha", 61.0)
    assert closed(house) == {"alpha"}


def test_a_marker_in_some_partitions_settles_on_the_workers_clock(build: Build) -> None:
    house = build(closing=ClosingRule(count=None, quiet_seconds=None, settle_seconds=60.0))
    house.send([*records_of("alpha", 24), EndOfDomain(domain="alpha")])
    house.ingests[0]._source.pause([partition(1)])
    for _ in range(6):
        house.poll()
        house.observe()
    assert closed(house) == set()
    age(house, "alpha", 61.0)
    assert closed(house) == {"alpha"}


def test_ages_begin_anew_with_the_worker(build: Build) -> None:
    """While a process is down nothing is quiet: what its clock has run on does not count."""
    house = build(closing=quiet(60.0))
    house.send(records_of("alpha", 24))
    house.drain()
    age(house, "alpha", LONG_AGO)
    house.restart_ingest()
    assert closed(house) == set()
    house.ingests[0]._quiet._started -= 61.0
    assert closed(house) == {"alpha"}


def test_one_workers_news_keep_a_domain_open_everywhere(build: Build) -> None:
    house = build(workers=2, closing=quiet(60.0))
    house.send(records_of("alpha", 40))
    house.drain()
    assert all("alpha" in ingest.report().backlog for ingest in house.ingests)
    age(house, "alpha", LONG_AGO, worker=0)
    assert closed(house) == set()
    age(house, "alpha", LONG_AGO, worker=1)
    assert closed(house) == {"alpha"}


# -- room -------------------------------------------------------------------------------------------------------------


def uneven(build: Build) -> House:
    """Worker 0 has most of everything, alpha above all; worker 1 is full, of beta."""
    house = build(workers=2, options=limits(poll_records=1000, block_rows=1000))
    alpha, beta = records_of("alpha", 120), records_of("beta", 60)
    house.send([*alpha, *beta])
    house.drain()
    one = {domain: backlog.fresh for domain, backlog in house.ingests[1].report().backlog.items()}
    house.ingests[1]._spool.discard(
        (row.partition, row.offset)
        for row in house.ingests[1]._spool._rows("domain='alpha' LIMIT ?", (one["alpha"] - 3,))
    )
    house.ingests[1]._paused = True
    return house


def test_room_is_made_on_the_worker_that_is_full(build: Build) -> None:
    house = uneven(build)
    backlogs = [ingest.report().backlog for ingest in house.ingests]
    assert sum(b["alpha"].fresh for b in backlogs) > sum(b["beta"].fresh for b in backlogs)
    assert backlogs[1]["beta"].fresh > backlogs[1]["alpha"].fresh
    assert closed(house) == {"beta"}, "the largest of all would make hardly any room where it is needed"


def test_a_full_worker_without_a_domain_to_close_is_named(build: Build) -> None:
    house = uneven(build)
    spool = house.ingests[1]._spool
    spool._db.execute("UPDATE rows SET tried=1")
    house.tick()
    trouble = str(house.status().trouble)
    assert "the spool of ingest-1 is full" in trouble and "ingest-0" not in trouble
    assert house.trainer.asked == []


def test_a_training_of_what_fills_another_worker_keeps_nobody_from_making_room(build: Build) -> None:
    house = uneven(build)
    meanwhile: list[set[str]] = []

    def at_the_first_training(_domain: str) -> None:
        house.trainer.before = lambda _domain: None
        house.coordinator.tick()
        meanwhile.append(set(house.coordinator._jobs))

    house.trainer.before = at_the_first_training
    spool = house.ingests[1]._spool
    spool._db.execute("DELETE FROM rows WHERE domain='alpha'")
    house.coordinator._submit("alpha", 1)
    for job in list(house.coordinator._jobs.values()):
        job.result(60)
    assert meanwhile == [{"alpha", "beta"}]
    for job in list(house.coordinator._jobs.values()):
        job.result(60)


def test_a_marker_that_comes_while_an_earlier_one_is_dropped_closes_its_domain(build: Build) -> None:
    """Between the look at what waits and the dropping, rows and their own marker are read and observed."""
    house = build()
    house.send([EndOfDomain(domain="alpha")])
    house.drain()
    ingest, records = house.ingests[0], records_of("alpha", 24)
    report = ingest.report

    def then_more_comes() -> Any:
        found = report()
        ingest.report = report  # type: ignore[method-assign]
        house.send([*records, EndOfDomain(domain="alpha")])
        house.drain()
        return found

    ingest.report = then_more_comes  # type: ignore[method-assign]
    house.tick()
    assert (house.markers("alpha"), house.waiting("alpha")) == (2, 24)
    house.learn("alpha")


def test_a_complete_domain_without_examples_to_train_on_says_so(build: Build) -> None:
    house = build()
    house.send([*records_of("alpha", 5, split="test"), EndOfDomain(domain="alpha")])
    house.drain()
    house.tick()
    alpha = house.state("alpha")
    assert alpha is not None and (alpha.state, house.markers("alpha")) == ("open", 0)
    assert "all of its 5 examples are held out" in alpha.detail
    house.send([*records_of("alpha", 24, start=8), EndOfDomain(domain="alpha")])
    house.learn("alpha")
    alpha = house.state("alpha")
    assert alpha is not None and alpha.detail == alpha.version
