"""Closing in the whole system: by the workers' own ages, on busy workers too."""

from __future__ import annotations

import time
from collections.abc import Callable

import pytest

from actors.closing import ClosingRule
from streaming.records import EndOfDomain
from tests.actors.house import House, partition, records_of

Build = Callable[..., House]
LONG_AGO = 3600.0


def quiet(seconds: float) -> ClosingRule:
    return ClosingRule(count=None, quiet_seconds=seconds, settle_seconds=seconds)


def closed(house: House) -> set[str]:
    house.tick()
    return {asked[0] for asked in house.trainer.asked}


@pytest.mark.parametrize("ahead", [120.0, -120.0, 1e9])
def test_no_clock_on_the_wall_closes_anything(build: Build, monkeypatch: pytest.MonkeyPatch, ahead: float) -> None:
    house = build(closing=quiet(60.0))
    house.send(records_of("alpha", 24))
    house.drain()
    now = time.time
    monkeypatch.setattr(time, "time", lambda: now() + ahead)
    assert closed(house) == set()
    house.wait(61.0)
    assert closed(house) == {"alpha"}, "and none keeps it open"


def test_a_busy_worker_closes_what_is_quiet(build: Build) -> None:
    """Rows of another domain wait to be observed at every report: a worker that is never done."""
    house = build(partitions=1, closing=quiet(60.0))
    house.send(records_of("alpha", 24))
    house.drain()
    house.wait(61.0)
    house.send(records_of("beta", 24))
    house.poll()
    assert house.ingests[0].report().unobserved["beta"] == 24
    assert closed(house) == {"alpha"}


def test_a_domain_whose_own_rows_wait_is_not_quiet(build: Build) -> None:
    house = build(partitions=1, closing=quiet(60.0))
    house.send(records_of("alpha", 24))
    house.drain()
    house.send(records_of("alpha", 8, start=24))
    house.poll()
    house.wait(LONG_AGO)
    assert closed(house) == set()
    house.drain()
    assert closed(house) == set(), "it counts from when its last row was observed, not from when that row came"
    house.wait(61.0)
    assert closed(house) == {"alpha"}


def test_a_marker_in_some_partitions_settles_on_the_workers_clock(build: Build) -> None:
    house = build(closing=ClosingRule(count=None, quiet_seconds=None, settle_seconds=60.0))
    house.send([*records_of("alpha", 24), EndOfDomain(domain="alpha")])
    house.ingests[0]._source.pause([partition(1)])
    for _ in range(6):
        house.poll()
        house.observe()
    assert closed(house) == set()
    house.wait(61.0)
    assert closed(house) == {"alpha"}


def test_ages_begin_anew_with_the_worker(build: Build) -> None:
    """While a process is down nothing is quiet: what its clock has run on does not count."""
    house = build(closing=quiet(60.0))
    house.send(records_of("alpha", 24))
    house.drain()
    house.wait(LONG_AGO)
    house.restart_ingest()
    while house.poll() + house.observe():
        pass
    assert closed(house) == set()
    house.wait(61.0)
    assert closed(house) == {"alpha"}


def test_one_workers_news_keep_a_domain_open_everywhere(build: Build) -> None:
    house = build(workers=2, closing=quiet(60.0))
    house.send(records_of("alpha", 40))
    house.drain()
    assert all(ingest.report().rows.get("alpha") for ingest in house.ingests)
    house.wait(LONG_AGO)
    house.send(records_of("alpha", 1, start=40))
    house.drain()
    assert closed(house) == set(), "one of them has heard of it a moment ago"
    house.wait(61.0)
    assert closed(house) == {"alpha"}


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
