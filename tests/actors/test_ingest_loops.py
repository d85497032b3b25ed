"""Ingest's loops by themselves: they run, say what fails, go on, and let themselves be asked meanwhile."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

from tests.actors.house import Failing, House, limits, records_of, training

Build = Callable[..., House]


def rows_of(house: House, worker: int = 0) -> list[tuple[str, str, int]]:
    spool = house.ingests[worker]._spool
    return spool._db.execute("SELECT domain, record_id, held_out FROM rows ORDER BY record_id").fetchall()


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


def test_reports_and_seals_may_be_asked_for_while_the_loops_run(build: Build) -> None:
    house = build(options=limits(poll_records=5, block_rows=3))
    records = records_of("alpha", 200)
    ingest = house.ingests[0]
    errors: list[BaseException] = []
    done = threading.Event()

    def ask() -> None:
        try:
            while not done.is_set():
                report = ingest.report()
                waiting = report.backlog.get("alpha")
                assert waiting is None or waiting.train + waiting.held_out <= report.polled
                ingest.seal("beta", 1, house.router.watermarks())
                ingest.examples("beta", 1)
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


def test_forgetting_waits_for_what_is_on_its_way(build: Build) -> None:
    house = build(partitions=1)
    house.send(records_of("alpha", 8))
    house.poll()
    ingest = house.ingests[0]
    on_its_way, go_on = threading.Event(), threading.Event()

    def hold(name: str) -> None:
        if name == "observe":
            on_its_way.set()
            go_on.wait(10)

    house.router.on_call = hold
    observing = threading.Thread(target=ingest.observe_once)
    observing.start()
    assert on_its_way.wait(10)
    forgetting = threading.Thread(target=ingest.forget, args=("alpha",))
    forgetting.start()
    forgetting.join(0.2)
    assert forgetting.is_alive(), "a row that is forgotten now would still reach the router"
    go_on.set()
    observing.join(10)
    forgetting.join(10)
    assert rows_of(house) == []


def test_a_partition_unknown_to_all_is_read_from_its_beginning(build: Build) -> None:
    """Committed offsets say what somebody polled, not what was learned."""
    house = build(partitions=1)
    records = records_of("alpha", 20)
    house.send(records)
    house.poll()  # commits offset 20, and then the machine is lost with its spool
    house._close(house.ingests[0])
    (house.home / "spool" / "0.sqlite").unlink()
    house.ingests[0] = house._ingest(0)
    house.drain()
    house.check_exact(training(records))


def _wait(until: Callable[[], bool], timeout_s: float = 20.0) -> None:
    deadline = time.monotonic() + timeout_s
    while not until():
        assert time.monotonic() < deadline, "did not come about"
        time.sleep(0.01)
