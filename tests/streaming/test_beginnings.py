"""Where a partition begins is asked until it is answered, and nothing of it is read before; others go on meanwhile."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from contextlib import suppress

import pytest

from streaming.beginnings import Beginnings
from streaming.errors import StreamError
from streaming.records import TaskRecord
from streaming.source import Envelope, RecordSource, TopicPartition
from tests.streaming.streams import Stream, read

LEFT, RIGHT = TopicPartition("t", 0), TopicPartition("t", 1)


class TestAsking:
    def test_each_is_placed_where_the_caller_says(self) -> None:
        placed: dict[TopicPartition, int | None] = {}
        beginnings = Beginnings({LEFT: 3, RIGHT: None}.__getitem__)
        beginnings.add([LEFT, RIGHT])
        assert beginnings.waiting() == {LEFT, RIGHT}
        beginnings.settle(placed.__setitem__)
        assert placed == {LEFT: 3, RIGHT: None} and not beginnings.waiting()
        beginnings.raise_failure()

    def test_one_failure_is_not_the_others(self) -> None:
        answers: dict[TopicPartition, int] = {RIGHT: 7}
        placed: dict[TopicPartition, int | None] = {}
        beginnings = Beginnings(answers.__getitem__)
        beginnings.add([LEFT, RIGHT])
        with pytest.raises(StreamError, match=r"t\[0\]"):
            beginnings.settle(placed.__setitem__)
        assert placed == {RIGHT: 7} and beginnings.waiting() == {LEFT}
        beginnings.settle(placed.__setitem__)  # Too soon: not asked again yet.
        with pytest.raises(StreamError, match=r"t\[0\]"):
            beginnings.raise_failure()
        answers[LEFT] = 4
        while beginnings.waiting():
            beginnings.settle(placed.__setitem__)
            time.sleep(0.01)
        assert placed == {RIGHT: 7, LEFT: 4}
        beginnings.raise_failure()

    def test_pauses_grow_and_end_with_success(self) -> None:
        def away(_each: TopicPartition) -> int:
            raise LookupError("away")

        beginnings = Beginnings(away)
        beginnings.add([LEFT])
        pauses = []
        for _ in range(9):
            beginnings._try_at = 0.0
            pauses.append(beginnings._pause_s)
            with pytest.raises(StreamError, match="away"):
                beginnings.settle(lambda _each, _wanted: None)
        assert pauses[:3] == [0.2, 0.4, 0.8] and pauses[-1] == 10.0
        beginnings._try_at, beginnings._start_at = 0.0, lambda _each: 1
        beginnings.settle(lambda _each, _wanted: None)
        assert beginnings._pause_s == 0.2

    def test_an_answer_to_an_earlier_assignment_does_not_count(self) -> None:
        """The partition was taken away and came back while the answer was on its way."""
        answers = iter([5, 9])
        placed: list[int | None] = []

        def slow(_each: TopicPartition) -> int:
            answer = next(answers)
            if answer == 5:
                thread = threading.Thread(target=beginnings.add, args=([LEFT],))
                thread.start()
                thread.join()
            return answer

        beginnings = Beginnings(slow)
        beginnings.add([LEFT])
        beginnings.settle(lambda _each, wanted: placed.append(wanted))
        assert placed == [] and beginnings.waiting() == {LEFT}
        beginnings.settle(lambda _each, wanted: placed.append(wanted))
        assert placed == [9] and not beginnings.waiting()

    def test_what_is_no_longer_assigned_is_not_asked_for(self) -> None:
        asked: list[TopicPartition] = []
        beginnings = Beginnings(lambda each: asked.append(each))
        beginnings.add([LEFT])
        beginnings.add([RIGHT])
        beginnings.settle(lambda _each, _wanted: None)
        assert asked == [RIGHT]


def fill(stream: Stream, count: int, partitions: int):
    location = stream.new_topic(partitions)
    sink = stream.sink(location)
    for number in range(count):
        sink.append(TaskRecord(id=f"r{number}", domain="bank", prompt="question", completion="x"))
    sink.flush()
    return location


@pytest.mark.parametrize("group", ["readers", None])
def test_a_source_goes_on_when_its_caller_answers_again(stream: Stream, group: str | None) -> None:
    """One call that fails during an assignment; then everything from the position asked for, and nothing else."""
    location = fill(stream, 20, 1)
    calls = 0

    def fails_once(_each: TopicPartition) -> int:
        nonlocal calls
        calls += 1
        if calls == 1:
            raise LookupError("the router is away")
        return 15

    source = stream.source(location, group=group, start_at=fails_once)
    failures = 0
    found: list[Envelope] = []
    deadline = time.monotonic() + 30
    while len(found) < 5 and time.monotonic() < deadline:
        try:
            found += source.poll(0.1, 10)
        except StreamError as error:
            assert "the router is away" in str(error)
            assert source.positions() == {} and found == []
            failures += 1
    # The embedded log asks for the first time when it is opened, and may have its answer before the first poll.
    assert failures >= 1 or not stream.is_kafka
    assert len(found) == 5 and calls == 2
    assert source.poll(stream.a_while_s, 10) == []
    assert source.lag() == {TopicPartition(location.topic, 0): 0}


def test_other_partitions_are_read_while_one_cannot_begin(stream: Stream) -> None:
    location = fill(stream, 60, 3)
    stuck = TopicPartition(location.topic, 1)
    mended = threading.Event()

    def start_at(each: TopicPartition) -> int:
        if each == stuck and not mended.is_set():
            raise LookupError("no watermark")
        return 0

    source = stream.source(location, start_at=start_at)
    found = poll_through(source, lambda polled: len(source.lag()) == 2 and not any(source.lag().values()))
    assert {each.partition for each in found} == {0, 2}
    with pytest.raises(StreamError, match="no watermark"):
        for _ in range(3):
            assert source.poll(0.2, 10) == []  # Nothing to read: then the failure is said, also between two tries.
    mended.set()
    rest = poll_through(source, lambda polled: len(polled) == 60 - len(found))
    assert {each.partition for each in rest} == {1}
    assert [each.offset for each in rest] == sorted({each.offset for each in rest}) and rest[0].offset == 0


def test_a_pause_holds_for_a_partition_that_begins_late(stream: Stream) -> None:
    location = fill(stream, 10, 1)
    only = TopicPartition(location.topic, 0)
    answers = iter([LookupError("away"), 0])

    def start_at(_each: TopicPartition) -> int:
        answer = next(answers)
        if isinstance(answer, Exception):
            raise answer
        return answer

    source = stream.source(location, start_at=start_at)
    source.pause([only])
    source.resume([only])
    source.pause([only])
    found = poll_through(source, lambda _polled: only in source.positions())
    assert found == [] and source.poll(stream.a_while_s, 10) == []
    source.resume([only])
    assert len(read(source, 10)) == 10


@pytest.mark.broker
@pytest.mark.slow
def test_a_slow_answer_costs_no_membership(kafka_stream: Stream) -> None:
    """Answers that take longer than the session: heartbeats go on, and everything is polled once."""
    location = fill(kafka_stream, 40, 2)
    patience_s = kafka_stream.options.session_timeout_ms / 1000 * 1.5
    asked: list[TopicPartition] = []

    def slow(each: TopicPartition) -> int:
        asked.append(each)
        time.sleep(patience_s)
        return 0

    source = kafka_stream.source(location, start_at=slow)
    found = read(source, 40, timeout_s=90)
    for _ in range(10):
        found += source.poll(0.2, 100)
    assert len(found) == 40 and len({(each.partition, each.offset) for each in found}) == 40
    assert sorted(asked) == sorted(source.partitions())
    if kafka_stream.options.client == "kafka-python":  # The other doesn't say.
        assert source._consumer.group_metadata().generation_id <= 2  # type: ignore[attr-defined]


def poll_through(source: RecordSource, done: Callable[[list[Envelope]], bool]) -> list[Envelope]:
    """Poll past the failures until `done` with what came."""
    found: list[Envelope] = []
    deadline = time.monotonic() + 40
    while not done(found):
        if time.monotonic() > deadline:
            pytest.fail(f"not within 40 s: {len(found)} records")
        with suppress(StreamError):
            found += source.poll(0.1, 100)
    return found
