"""Spools are caches: deleted, dealt out otherwise, copied or cut off by retention, every example is trained once or
said to be lost."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from actors.home import take_log
from actors.spool_file import delete_file
from serving.api import Stretch
from streaming.errors import StreamError
from streaming.records import EndOfDomain, TaskRecord
from tests.actors.file_stream import FileStream
from tests.actors.house import Failing, House, limits, partition, records_of, training
from tests.actors.memory_log import MemoryStream

Build = Callable[..., House]
ALPHA = EndOfDomain(domain="alpha")


def ids(records: list[TaskRecord]) -> tuple[str, ...]:
    return tuple(sorted(record.id for record in records))


def rest(house: House) -> None:
    """Let everybody work until nothing moves, and a while more."""
    for _ in range(4):
        while house.poll() + house.observe():
            pass
        house.tick()
        house.wait(3.0)


@pytest.mark.parametrize(("before", "after"), [(2, 1), (1, 3), (3, 2)])
def test_another_number_of_workers_trains_every_example_once(build: Build, before: int, after: int) -> None:
    house = build(partitions=4, workers=before)
    records = records_of("alpha", 40)
    house.send(records)
    house.drain()
    house.employ_workers(after)
    house.send([ALPHA])
    house.learn("alpha")
    assert house.trained("alpha") == [ids(training(records))]
    house.check_exact(training(records))
    assert list(house.status().troubles()) == []


@pytest.mark.parametrize("when", ["counted", "sealed", "published"])
def test_a_deleted_spool_costs_nothing_but_reading_again(build: Build, when: str) -> None:
    house = build(workers=2)
    records = records_of("alpha", 40)
    house.send(records)
    house.drain()
    if when == "counted":
        house.delete_spool(0)

    def ordered(_domain: str) -> None:
        house.trainer.ordered = lambda _domain: None
        if when == "sealed":
            house.delete_spool(0)

    house.trainer.ordered = ordered
    house.send([ALPHA])
    house.learn("alpha")
    if when == "published":
        house.delete_spool(0)
        house.delete_spool(1)
    rest(house)
    assert set(house.trained("alpha")) == {ids(training(records))}
    assert len(house.trainer.asked) == (2 if when == "sealed" else 1), "what it could not fetch it is ordered again"
    assert house.waiting("alpha") == 0 and len(house.registry.adapters()) == 1
    house.check_exact(training(records))
    assert list(house.status().troubles()) == []


def test_a_worker_that_reads_late_does_not_bring_back_what_was_removed(build: Build) -> None:
    """It reads again what another had read, after that was learned, released and removed."""
    house = build(partitions=1)
    records = records_of("alpha", 24)
    house.send([*records, ALPHA])
    house.poll()
    house.observe()
    late = house._ingest(1, member=0)
    late._source.poll(0.0, 0)  # it is told where to begin, and reads nothing yet
    house.learn("alpha")
    house.ingests.append(late)
    house.start_coordinator()
    removal = house.coordinator.remove("alpha")
    assert late.poll_once(0.0) > 0, "the test is about rows that are polled twice"
    rest(house)
    assert house.current == removal and house.router.examples() == {}
    assert house.waiting("alpha") == 0 and house.registry.adapters() == []
    assert house.coordinator.domains() == ()
    assert len(house.trainer.asked) == 1


def test_what_can_not_be_read_again_is_an_alarm_and_the_rest_goes_on(build: Build) -> None:
    house = build(partitions=1, workers=1)
    records = records_of("alpha", 24)
    house.send(records)
    house.drain()
    house.delete_spool()
    house.stream.truncate(partition(0), 10)
    rest(house)
    state = house.state("alpha")
    assert state is not None
    assert state.lost == (Stretch(partition="stream[0]", first=0, last=9, rows=10),)
    assert "10 examples in stream[0], offsets 0 to 9" in dict(house.status().troubles())["alpha lost"]
    assert house.status().unread == ()
    house.send([ALPHA])
    house.learn("alpha")
    assert house.trained("alpha") == [ids(training(records[10:]))]
    house.check_exact(training(records))
    # Sent again, they are trained on after all, and not counted again.
    house.send([*records[:10], ALPHA])
    house.learn("alpha", 2)
    assert house.trained("alpha")[1] == ids(training(records[:10]))
    house.check_exact(training(records))
    assert list(house.status().troubles()) == []


def test_what_was_never_read_is_an_alarm_too(build: Build) -> None:
    house = build(partitions=1)
    records = records_of("alpha", 24)
    house.send(records[:4])
    house.drain()
    house._close(house.ingests[0])
    house.send(records[4:])
    house.stream.truncate(partition(0), 12)
    house.ingests[0] = house._ingest(0)
    rest(house)
    assert house.status().unread == (Stretch(partition="stream[0]", first=4, last=11, rows=0),)
    assert house.state("alpha").lost == ()  # type: ignore[union-attr]
    house.check_exact(training([*records[:4], *records[12:]]))
    assert house.is_drained()
    house.crash()
    assert house.status().unread, "it is not forgotten"


def test_what_was_polled_waits_while_nobody_can_say_where_the_log_begins(build: Build) -> None:
    """The source has moved on by then: what it gave must not be taken for offsets without a record."""
    house = build(partitions=1, workers=1)
    records = records_of("alpha", 24)
    house.send(records)
    house.stream.truncate(partition(0), 5)
    ingest = house.ingests[0]
    ingest._source = Failing(ingest._source, "bounds", 4, StreamError("no broker"))  # type: ignore[assignment]
    for _ in range(3):
        with pytest.raises(StreamError):
            ingest.poll_once(0.0)
    assert ingest._spool.size() == 0
    rest(house)
    assert house.status().unread == (Stretch(partition="stream[0]", first=0, last=4, rows=0),)
    house.check_exact(training(records[5:]))


def test_what_one_worker_has_alone_is_named_once_that_one_loses_it_too(build: Build) -> None:
    stream = MemoryStream(1)
    house = build(partitions=1, workers=2, stream=stream)
    records = records_of("alpha", 24)
    house.send(records)
    house.drain()
    # The partition goes to the other worker, and the log forgets what the first one holds.
    stream.log.deal(2, shift=1)
    stream.truncate(partition(0), 10)
    for _ in range(2):
        house.wait(6.0)
        rest(house)
    assert house.state("alpha").lost == ()  # type: ignore[union-attr]
    house.delete_spool(0)
    house.wait(6.0)
    rest(house)
    assert house.state("alpha").lost == (Stretch(partition="stream[0]", first=0, last=9, rows=10),)  # type: ignore[union-attr]
    house.send([ALPHA])
    house.learn("alpha")
    assert house.trained("alpha") == [ids(training(records[10:]))]


@pytest.mark.parametrize("setting", ["longest record", "share of the exam"])
def test_a_setting_that_takes_other_rows_than_before_changes_nothing_in_silence(build: Build, setting: str) -> None:
    """Read again, a row is refused, or is on the other side of the exam, by what is set by then."""
    house = build(partitions=1)
    records = records_of("alpha", 24, split=None)
    house.send(records)
    house.drain()
    sealed = house.router.open()["alpha"]
    assert 0 < sealed.held_out < 24
    refuses = {"max_record_bytes": 1} if setting == "longest record" else {"held_out_fraction": 0.9}
    house.options = limits(**refuses)
    house.delete_spool()
    rest(house)
    said = house.router.open().get("alpha")
    assert said is not None
    if setting == "longest record":
        assert (said.train, said.held_out, sum(loss.rows for loss in said.lost)) == (0, 0, 24)
        return
    assert (said.train, said.held_out, said.lost) == (sealed.train, sealed.held_out, ())
    counted = house.router.counts()
    house.send([ALPHA])
    house.learn("alpha")
    assert [len(trained) for trained in house.trained("alpha")] == [counted["alpha"]]


def test_a_lost_example_that_comes_again_keeps_its_side_of_the_exam(build: Build) -> None:
    house = build(partitions=1)
    records = records_of("alpha", 16)
    house.send(records)
    house.drain()
    house.delete_spool()
    house.stream.truncate(partition(0), 8)
    rest(house)
    assert sum(stretch.rows for stretch in house.state("alpha").lost) == 8  # type: ignore[union-attr]
    other = {"train": "test", "test": "train"}
    house.send([*(record.model_copy(update={"split": other[str(record.split)]}) for record in records[:8]), ALPHA])
    house.learn("alpha")
    assert house.trained("alpha") == [ids(training(records))]
    house.check_exact(training(records))


def test_what_another_run_of_the_router_has_counted_is_not_given_for_training(build: Build) -> None:
    """It was not committed: the next run has not counted it, and a version is not made of it."""
    house = build(partitions=1)
    first, more = records_of("alpha", 8), records_of("alpha", 8, start=8)
    house.send([*first, ALPHA])
    house.drain()
    house.learn("alpha")
    house.send(more)
    house.drain()
    reached = dict(house.router.observed())
    ingest = house.ingests[0]
    assert sum(map(len, ingest.examples("alpha", reached))) == 8
    house.start_router()
    assert ingest.examples("alpha", reached) == ([], [])
    house.drain()
    assert sum(map(len, ingest.examples("alpha", reached))) == 8


@pytest.mark.parametrize("spools", ["there", "reread"])
def test_another_log_is_read_from_its_beginning_once_it_is_accepted(build: Build, spools: str) -> None:
    house = build(partitions=1)
    before = records_of("alpha", 8)
    house.send(before)
    house.drain()
    house.router.skip(partition(0), 0, 8)  # a commit
    house.coordinator.stop()
    house._close(house.ingests[0])
    house.stream.close()
    if spools == "reread":
        delete_file(house.spool_path(0))
    (house.home / "stream.sqlite").unlink()
    house.stream = FileStream(house.home / "stream.sqlite", 1)
    assert "8 examples" in take_log(house.registry, "stream")[0]
    after = records_of("alpha", 12, start=4)
    house.send([*after, ALPHA])
    house.up()
    house.learn("alpha")
    # What was lost with the former log and comes again is trained on with the rest, and counted once.
    assert house.trained("alpha") == [ids(training(after))]
    house.check_exact(training(records_of("alpha", 16)))
    assert [stretch.partition for stretch in house.state("alpha").lost] == ["stream (log 1)[0]"]  # type: ignore[union-attr]
