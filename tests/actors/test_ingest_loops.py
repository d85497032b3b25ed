"""Ingest's loops by themselves: they run, say what fails, go on, and let themselves be asked meanwhile."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

from streaming.errors import BrokerUnavailable
from tests.actors.house import Failing, House, limits, partition, records_of, training

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
    assert not [thread for thread in ingest._threads if thread.is_alive()]
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


def test_dead_letters_that_were_lost_are_said(build: Build) -> None:
    house = build()
    house.letters._lost = 3
    assert "3 could not be written" in house.ingests[0].report().trouble["dead letters"]


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
