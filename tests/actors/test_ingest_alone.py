"""An ingest worker whose peers are away, hang or come late: it says so, polls on, and loses and doubles nothing."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from actors.errors import Unanswered
from actors.ingest import Ingest
from actors.spool import Spool
from streaming.errors import BrokerUnavailable, LogReplaced
from streaming.records import EndOfDomain
from tests.actors.house import House, limits, partition, records_of, training
from tests.actors.memory_log import MemoryStream

Build = Callable[..., House]


class Late:
    """A part that can't be had before `there` is set; every attribute that is asked for before raises."""

    def __init__(self, make: Callable[[], Any], error: Exception) -> None:
        self._make, self._error, self._made = make, error, None
        self.there = threading.Event()

    def __getattr__(self, name: str) -> Any:
        if not self.there.is_set():
            raise self._error
        if self._made is None:
            self._made = self._make()
        return getattr(self._made, name)


class Hanging:
    """A router whose methods named in `hangs` don't answer; `asked` counts the calls to each."""

    def __init__(self, inner: Any) -> None:
        self._inner, self.hangs, self.goes_on = inner, set[str](), threading.Event()
        self.asked: dict[str, int] = {}

    def __getattr__(self, name: str) -> Any:
        method = getattr(self._inner, name)

        def call(*args: Any, **kwargs: Any) -> Any:
            self.asked[name] = self.asked.get(name, 0) + 1
            if name in self.hangs:
                assert self.goes_on.wait(60)
            return method(*args, **kwargs)

        return call

    def go_on(self) -> None:
        self.hangs = set()
        self.goes_on.set()


@pytest.fixture
def hanging(build: Build) -> Iterator[tuple[House, Hanging]]:
    """A house of two partitions of which one worker reads one, its router such that it may hang."""
    stream = MemoryStream(2)
    stream.log.deal(2)
    house = build(partitions=2, stream=stream, options=limits(poll_records=4))
    router = Hanging(house.router)
    following = house.ingests[0]._following
    following._router = house.ingests[0]._observer._router = router  # type: ignore[assignment]
    yield house, router
    router.go_on()


def wait(until: Callable[[], object]) -> None:
    deadline = time.monotonic() + 20
    while not until():
        assert time.monotonic() < deadline, "did not come about"
        time.sleep(0.005)


def test_a_worker_is_made_and_runs_while_everything_it_needs_is_away(build: Build) -> None:
    house = build()
    records = records_of("alpha", 30)
    house.send(records)
    house.sink.append_raw(b"unreadable", (), b"key")
    house.sink.flush()
    spool = Late(lambda: Spool(house.home / "late.sqlite"), OSError("the disk is away"))
    letters = Late(lambda: house.letters, BrokerUnavailable("no letters"))
    template = Late(lambda: house.parts.template, OSError("the model is away"))
    source = Late(lambda: house.stream, BrokerUnavailable("the broker is away"))
    router = Late(lambda: house.router, Unanswered("the router is away"))
    parts: Any = (letters, spool, house.parts.extractor, template, router)
    ingest = Ingest(lambda start_at: source.open(start_at, 0, 1), *parts, house.options)
    try:
        ingest.start()
        with pytest.raises(OSError, match="disk"):
            ingest.report()
        wait(lambda: ingest.vitals().trouble == "observing: the disk is away")
        spool.there.set()
        wait(lambda: ingest.vitals().trouble == "observing: the model is away")
        template.there.set()
        wait(lambda: ingest.vitals().trouble == "observing: the router is away")
        router.there.set()
        wait(lambda: ingest.vitals().trouble == "polling: the broker is away")
        assert ingest.report().trouble == {"polling": "the broker is away"}
        source.there.set()
        wait(lambda: ingest.vitals().trouble == "polling: no letters")
        letters.there.set()
        wait(house.is_drained)
        wait(lambda: ingest.vitals().trouble is None)
        assert (ingest.vitals().progress_seconds or 0.0) < 5
    finally:
        ingest.stop()
    house.check_exact(training(records))
    assert len(house.letters.list()) == 1


@pytest.mark.parametrize("method", ["view", "observe", "fates"])
def test_polling_goes_on_while_the_router_hangs(hanging: tuple[House, Hanging], method: str) -> None:
    """Within a rebalance too: where a partition begins is known without it."""
    house, router = hanging
    house.send(records_of("alpha", 20))
    ingest = house.ingests[0]
    router.hangs = {method}
    ingest.start()
    house.wait(3.0)
    wait(lambda: router.asked.get(method, 0))
    asked = sum(router.asked.values())
    first = len(house.stream.log.entries[partition(0)])
    wait(lambda: ingest.report().polled == first)
    # The other partition is handed to this worker meanwhile.
    house.stream.log.deal(1)
    house.send([*records_of("alpha", 20, start=20), *records_of("beta", 8)])
    wait(lambda: ingest.report().polled == 48)
    assert sum(router.asked.values()) == asked, "nobody asked the router for it"
    assert ingest.report().trouble == {}
    router.go_on()
    wait(house.is_drained)
    assert ingest.report().polled == 48, "each record was polled once"
    ingest.stop()
    house.ingests.clear()
    house.check_exact(training([*records_of("alpha", 40), *records_of("beta", 8)]))


def test_a_router_that_fails_during_a_rebalance_costs_the_partition_nothing(build: Build) -> None:
    stream = MemoryStream(2)
    stream.log.deal(2)
    house = build(partitions=2, stream=stream)
    records = records_of("alpha", 24)
    house.send(records)
    house.poll()
    house.observe()

    def away(_name: str) -> None:
        raise Unanswered("the router is away")

    house.router.on_call = away
    stream.log.deal(1)
    house.wait(10.0)
    assert sum(house.ingests[0].poll_once(0.0) for _ in range(3)) > 0
    house.router.on_call = lambda _name: None
    house.drain()
    house.check_exact(training(records))


def test_what_a_router_that_went_back_needs_is_read_again(build: Build) -> None:
    """Where reading began by what the one before had settled, there is a hole."""
    house = build(partitions=1, stream=MemoryStream(1))
    records = records_of("alpha", 24)
    house.send([*records, EndOfDomain(domain="alpha")])
    house.learn("alpha")
    ingest = house.ingests[0]
    # A worker without a spool reads on from what is settled ...
    house.delete_spool()
    ingest = house.ingests[0]
    house.send(records_of("beta", 8))
    house.drain()
    assert ingest._spool.holes(partition(0), 0, 25)
    # ... and is then told by a router that has settled nothing.
    view = ingest._following.last
    assert view is not None and view.low[partition(0)] > 0
    ingest._following.last = type(view)(**{**vars(view), "low": {}})
    house.wait(6.0)
    polled = sum(ingest.poll_once(0.0) for _ in range(6))
    assert polled == 33 and not ingest._spool.holes(partition(0), 0, 25)


def test_another_log_under_the_topic_s_name_is_refused_until_the_first_is_back(build: Build) -> None:
    house = build(partitions=1, stream=MemoryStream(1))
    records = records_of("alpha", 12)
    house.send(records[:6])
    house.drain()
    ingest, own = house.ingests[0], house.stream.log.identity
    house.stream.log.identity = "1" * 32
    ingest._must_reopen = True
    for _ in range(3):
        with pytest.raises(LogReplaced):
            ingest.poll_once(0.0)
    house.stream.log.identity = own
    house.send(records[6:])
    house.drain()
    house.check_exact(training(records))


def test_a_source_that_can_not_be_closed_is_left_and_another_opened(build: Build) -> None:
    house = build()
    records = records_of("alpha", 12)
    house.send(records)
    ingest = house.ingests[0]

    def refuse() -> None:
        raise BrokerUnavailable("no broker to leave")

    ingest._source.close = refuse  # type: ignore[union-attr, method-assign]
    ingest._must_reopen = True
    with pytest.raises(BrokerUnavailable):
        ingest.poll_once(0.0)
    house.drain()
    house.check_exact(training(records))
