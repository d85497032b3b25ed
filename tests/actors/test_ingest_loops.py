"""Ingest's loops by themselves: they run, say what fails, go on, and let themselves be asked meanwhile."""

from __future__ import annotations

import sqlite3
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import pytest

from actors import spool
from streaming.errors import BrokerUnavailable, StreamError
from streaming.records import EndOfDomain
from tests.actors.house import Failing, House, limits, partition, records_of, training
from tests.actors.memory_log import MemoryStream

Build = Callable[..., House]


# -- loops ------------------------------------------------------------------------------------------------------------


def test_the_loops_run_by_themselves_and_stop(build: Build) -> None:
    house = build()
    records = records_of("alpha", 30)
    house.send(records)
    ingest = house.ingests[0]
    ingest.start()
    _wait(house.is_drained)
    house.check_exact(training(records))
    assert ingest.report().trouble == {}
    ingest.stop()
    assert all(loop.stop(0.0) for loop in ingest._loops)
    house.ingests.clear()


def test_trouble_in_a_loop_is_reported_and_passes(build: Build) -> None:
    house = build()
    records = records_of("alpha", 12)
    house.send(records)
    ingest = house.ingests[0]
    extractor = ingest._observer._extractor
    ingest._observer._extractor = Failing(extractor, "extract", 99, OSError("the device is lost"))  # type: ignore[assignment]
    ingest.start()
    _wait(lambda: ingest.report().trouble == {"observing": "the device is lost"})
    ingest._observer._extractor = extractor
    _wait(house.is_drained)
    _wait(lambda: ingest.report().trouble == {})
    house.check_exact(training(records))


@pytest.mark.parametrize("who", ["append", "block", "examples", "survey", "counts_from"])
def test_damage_is_mended_whoever_comes_upon_it(build: Build, monkeypatch: pytest.MonkeyPatch, who: str) -> None:
    """A page of the file that neither loop reads would keep its domain from being learned; and the disk is full."""
    house = build()
    records = records_of("alpha", 24)
    house.send(records)
    house.drain()
    ingest = house.ingests[0]
    act, opens = getattr(ingest._spool, who), spool.open_file
    damage, full = [True], [True]

    def act_where_whole(*arguments: Any) -> Any:
        if damage:
            raise _sqlite_error(sqlite3.DatabaseError, sqlite3.SQLITE_CORRUPT)
        return act(*arguments)

    def open_file(*arguments: Any) -> sqlite3.Connection:
        damage.clear()
        if full:
            raise _sqlite_error(sqlite3.OperationalError, full.pop() and sqlite3.SQLITE_FULL)
        return opens(*arguments)

    monkeypatch.setattr(ingest._spool, who, act_where_whole)
    monkeypatch.setattr(spool, "open_file", open_file)
    ingest.start()
    house.send([*records_of("beta", 8), EndOfDomain(domain="alpha")])

    def is_learned() -> bool:
        house.tick()
        house.wait(2.5)
        return house.version("alpha") == 1 and house.is_drained()

    _wait(is_learned, 1000.0)
    assert not full and "it was deleted" in ingest.report().trouble["spool"]
    _wait(lambda: set(ingest.report().trouble) == {"spool"})
    house.check_exact(training([*records, *records_of("beta", 8)]))
    ingest.stop()
    house.ingests.clear()


def _sqlite_error(kind: type[sqlite3.Error], code: int) -> sqlite3.Error:
    error = kind("what SQLite says")
    error.sqlite_errorcode = code
    return error


def test_dead_letters_that_were_lost_are_said(build: Build) -> None:
    house = build()
    house.sink.append_raw(b"unreadable", (), b"key")
    house.sink.flush()
    house.poll()
    house.letters._lost = 3
    assert "3 could not be written" in house.ingests[0].report().trouble["dead letters"]


def test_while_dead_letters_can_not_be_written_it_is_said_and_nothing_is_lost(build: Build) -> None:
    """However long that is: what was counted before stays so, and all is read once they can be."""
    house = build(partitions=1)
    ingest = house.ingests[0]
    first, rest = records_of("alpha", 8), records_of("alpha", 16, start=8)
    house.send(first)
    ingest.start()
    _wait(house.is_drained)
    put_all, tries = house.letters.put_all, []

    def fails(letters: Any) -> int:
        tries.append(len(letters))
        raise StreamError("topic stream.dead-letters: no leader")

    house.letters.put_all = fails  # type: ignore[method-assign]
    house.sink.append_raw(b"unreadable", (), b"key")
    house.send([*rest, EndOfDomain(domain="alpha")])
    _wait(lambda: len(tries) >= 2)
    house.coordinator.tick()
    troubles = dict(house.status().troubles())
    assert "no leader" in troubles["ingest-0 polling"]
    assert house.router.counts() == {"alpha": len(training(first))}
    house.letters.put_all = put_all  # type: ignore[method-assign]
    _wait(house.is_drained)
    _wait(lambda: ingest.report().trouble == {})
    assert len(house.letters.list()) == 1
    house.check_exact(training([*first, *rest]))


def test_what_others_ask_may_be_asked_while_the_loops_run(build: Build) -> None:
    house = build(options=limits(poll_records=5, block_rows=3))
    records = records_of("alpha", 200)
    ingest = house.ingests[0]
    errors: list[BaseException] = []
    done = threading.Event()

    def ask() -> None:
        try:
            while not done.is_set():
                report = ingest.report()
                assert report.unobserved.get("alpha", 0) <= report.rows.get("alpha", 0) <= 200
                ingest.examples("alpha", house.router.observed())
                ingest.survey({partition(0): (0, 50)})
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=ask) for _ in range(2)]
    ingest.start()
    for thread in threads:
        thread.start()
    for at in range(0, 200, 40):
        house.send(records[at : at + 40])
    _wait(house.is_drained)
    done.set()
    for thread in threads:
        thread.join(10)
    assert errors == []
    house.check_exact(training(records))


def test_a_partition_unknown_to_all_is_read_from_its_beginning(build: Build) -> None:
    """Committed offsets say what somebody polled, not what was learned."""
    house = build(partitions=1)
    records = records_of("alpha", 20)
    house.send(records)
    house.poll()  # commits offset 20, and then the machine is lost with its spool
    house.delete_spool()
    house.drain()
    house.check_exact(training(records))


# -- where logs end ---------------------------------------------------------------------------------------------------


def test_a_log_s_end_is_looked_at_while_records_come(build: Build) -> None:
    house = build(partitions=1, options=limits(poll_records=2))
    ingest = house.ingests[0]
    ends = []
    for start in range(0, 24, 4):
        house.send(records_of("alpha", 4, start=start))
        assert ingest.poll_once(0.0) == 2
        ends.append(ingest.report().ends)
        house.wait(2.6)
    assert ends == [{partition(0): end} for end in (4, 4, 12, 12, 20, 20)]


def test_where_nobody_can_say_where_a_log_ends_reading_goes_on(build: Build) -> None:
    """Each failing look may take seconds: one at a time, the other partitions' turns come before it is tried again."""
    house = build(partitions=3, options=limits(poll_records=2))
    ingest = house.ingests[0]
    records = records_of("alpha", 40)
    house.send(records)
    ends = house.stream.ends()
    failing = Failing(ingest._source, "bounds", 2, BrokerUnavailable("no answer"))
    ingest._source = failing  # type: ignore[assignment]
    assert (ingest.poll_once(0.0), failing.left, ingest.report().ends) == (2, 1, {})
    assert ingest.report().trouble == {"looking": "no answer"}
    assert (ingest.poll_once(0.0), failing.left, ingest.report().ends) == (2, 0, {})
    assert ingest.poll_once(0.0) == 2
    (seen,) = ingest.report().ends
    house.wait(5.0)
    assert ingest.poll_once(0.0) == 2
    assert ingest.report().ends == ends and seen in ends
    assert ingest.report().trouble == {}
    house.drain()
    house.check_exact(training(records))


def _wait(until: Callable[[], bool], timeout_s: float = 20.0) -> None:
    deadline = time.monotonic() + timeout_s
    while not until():
        assert time.monotonic() < deadline, "did not come about"
        time.sleep(0.01)


def test_a_worker_that_can_not_poll_does_not_say_that_it_reads_a_partition(build: Build) -> None:
    """Another may read it by then, and what that one can't read would be waited for."""
    house = build(partitions=1)
    house.send(records_of("alpha", 8))
    house.drain()
    ingest = house.ingests[0]
    stretches = {partition(0): (0, 8)}
    assert ingest.survey(stretches)[partition(0)].begins == 0
    ingest._polling.trouble = "no broker"
    survey = ingest.survey(stretches)[partition(0)]
    assert survey.begins is None and survey.held.tolist() == list(range(8))


def test_a_hole_is_not_read_again_while_nobody_can_say_where_the_log_begins(build: Build) -> None:
    """Each time the source is opened anew the group deals its partitions out again."""
    stream = MemoryStream(1)
    house = build(partitions=1, stream=stream)
    house.send(records_of("alpha", 12))
    stream.truncate(partition(0), 4)
    ingest = house.ingests[0]
    opened: list[int] = []
    open_source = ingest._open_source

    def counting(start_at: Any) -> Any:
        opened.append(1)
        return Failing(open_source(start_at), "bounds", 1000, StreamError("no broker"))

    ingest._open_source = counting
    ingest._must_reopen = True
    for _ in range(8):
        with suppress(StreamError):
            ingest.poll_once(0.0)
        ingest._next = {partition(0): 12}
        house.wait(6.0)
    assert len(opened) == 1
