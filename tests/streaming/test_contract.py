"""What every stream promises, checked against each kind: sources, sinks, positions, groups, markers."""

from __future__ import annotations

import threading
import time
from collections import defaultdict

import pytest

from streaming.errors import StreamError
from streaming.location import ensure_topic
from streaming.records import EndOfDomain, TaskRecord
from streaming.source import Envelope, TopicPartition, from_beginning
from streaming.wire import decode
from tests.streaming.streams import Stream, read, settle


def examples(count: int, prefix: str = "r") -> list[TaskRecord]:
    return [TaskRecord(id=f"{prefix}{n}", domain="bank", prompt=f"question {n}", completion="x") for n in range(count)]


def by_partition(envelopes: list[Envelope]) -> dict[int, list[Envelope]]:
    found: dict[int, list[Envelope]] = defaultdict(list)
    for envelope in envelopes:
        found[envelope.partition].append(envelope)
    return found


def fill(stream: Stream, count: int, partitions: int = 1):
    """A topic with this many records, and the records."""
    location = stream.new_topic(partitions)
    sink = stream.sink(location)
    records = examples(count)
    for record in records:
        sink.append(record)
    sink.flush()
    return location, records


def test_order_within_each_partition(stream: Stream) -> None:
    location, records = fill(stream, 300, partitions=3)
    sent = {record.id: place for place, record in enumerate(records)}
    found = read(stream.source(location), 300)
    assert sorted(sent[decode(each.value, each.headers).id] for each in found) == list(range(300))
    assert set(by_partition(found)) == {0, 1, 2}
    for envelopes in by_partition(found).values():
        offsets = [each.offset for each in envelopes]
        assert offsets == sorted(set(offsets))
        places = [sent[decode(each.value, each.headers).id] for each in envelopes]
        assert places == sorted(places)


def test_a_log_s_bounds_are_where_its_first_record_is_and_where_the_next_will_be(stream: Stream) -> None:
    location, _ = fill(stream, 12)
    empty = stream.new_topic()
    full, none = TopicPartition(location.topic, 0), TopicPartition(empty.topic, 0)
    source = stream.source(location, start_at=from_beginning)
    assert len(read(source, 5, max_records=5)) == 5
    assert source.bounds(full) == (0, 12), "read or not"
    read(source, 7)
    assert source.bounds(full) == (0, 12)
    # A group of its own: the member before does not poll, so a rebalance would wait for it.
    fresh = stream.source(empty, group="others", start_at=from_beginning)
    settle(fresh)
    assert fresh.bounds(none) == (0, 0)


def test_each_partition_has_its_bounds(stream: Stream) -> None:
    location, _ = fill(stream, 30, partitions=2)
    source = stream.source(location)
    found = by_partition(read(source, 30))
    assert {number: source.bounds(TopicPartition(location.topic, number)) for number in found} == {
        number: (0, len(envelopes)) for number, envelopes in found.items()
    }


def test_a_log_s_end_moves_on_while_nothing_of_it_is_read(stream: Stream) -> None:
    location, _ = fill(stream, 12)
    only = TopicPartition(location.topic, 0)
    source = stream.source(location)
    source.pause([only])
    settle(source)
    sink = stream.sink(location)
    for record in examples(6, "late"):
        sink.append(record)
        sink.flush()  # A batch each: Tansu says where the last one begins.
    assert source.bounds(only) == (0, 18)
    source.resume([only])
    assert len(read(source, 18)) == 18


def test_records_arrive_as_they_were_sent(stream: Stream) -> None:
    location = stream.new_topic()
    record = TaskRecord(domain="bank", prompt="grüß Gott", completion="ü", meta={"n": 1.5}, created_at=None)
    sink = stream.sink(location)
    before_ms = time.time() * 1000
    sink.append(record)
    sink.flush()
    (found,) = read(stream.source(location), 1)
    assert decode(found.value, found.headers) == record
    assert found.key == record.id.encode()
    assert (found.topic, found.partition) == (location.topic, 0)
    assert abs(found.timestamp_ms - before_ms) < 60_000


def test_raw_bytes_keys_and_headers_are_kept(stream: Stream) -> None:
    location = stream.new_topic()
    sink = stream.sink(location)
    headers = (("a", b"\x00\xff"), ("a", b"again"), ("empty", b""))
    sink.append_raw(b"\x00not a record", headers, b"\xffkey")
    sink.append_raw(None, (), b"tombstone")
    sink.append_raw(b"", ())
    sink.flush()
    first, second, third = read(stream.source(location), 3)
    assert (first.value, first.headers, first.key) == (b"\x00not a record", headers, b"\xffkey")
    assert (second.value, second.headers, second.key) == (None, (), b"tombstone")
    assert (third.value, third.key) == (b"", None)


def test_an_entry_has_a_value_or_a_key(stream: Stream) -> None:
    with pytest.raises(StreamError, match="a value or a key"):
        stream.sink(stream.new_topic()).append_raw(None)


def test_close_flushes(stream: Stream) -> None:
    location = stream.new_topic()
    sink = stream.sink(location)
    sink.append(examples(1)[0])
    sink.close()
    sink.close()
    assert len(read(stream.source(location), 1)) == 1


def test_a_resent_record_meets_its_twin(stream: Stream) -> None:
    """A restarted producer repeats: visible as separate offsets, in the same partition, told by the same id."""
    location, records = fill(stream, 50, partitions=4)
    again = stream.sink(location)
    for record in records:
        again.append(record)
    again.flush()
    places: dict[bytes | None, list[tuple[int, int]]] = defaultdict(list)
    for each in read(stream.source(location), 100):
        places[each.key].append((each.partition, each.offset))
    assert len(places) == 50
    for first, second in places.values():
        assert first[0] == second[0] and first[1] != second[1]


def test_the_marker_reaches_every_partition_behind_its_domain(stream: Stream) -> None:
    location = stream.new_topic(4)
    sink = stream.sink(location)
    for record in examples(40):
        sink.append(record)
    sink.append(EndOfDomain(domain="bank"))
    sink.flush()
    found = by_partition(read(stream.source(location), 44))
    assert set(found) == {0, 1, 2, 3}
    for envelopes in found.values():
        decoded = [decode(each.value, each.headers) for each in envelopes]
        assert decoded[-1] == EndOfDomain(domain="bank")
        assert all(isinstance(each, TaskRecord) for each in decoded[:-1])


def test_partitions_and_assignment(stream: Stream) -> None:
    location = stream.new_topic(3)
    source = stream.source(location)
    settle(source)
    everything = frozenset(TopicPartition(location.topic, number) for number in range(3))
    assert source.partitions() == source.assignment() == everything


def test_positions_are_the_next_offsets_to_be_polled(stream: Stream) -> None:
    """Not what was fetched ahead: after 7 of 100 the position is the 8th."""
    location, _ = fill(stream, 100)
    only = TopicPartition(location.topic, 0)
    source = stream.source(location)
    found = read(source, 7, max_records=7)
    assert len(found) == 7
    assert source.positions() == {only: found[-1].offset + 1}
    found += read(source, 93)
    assert [each.offset for each in found] == sorted({each.offset for each in found})
    assert source.positions() == {only: found[-1].offset + 1}


def test_a_poll_returns_no_more_than_asked(stream: Stream) -> None:
    location, _ = fill(stream, 60, partitions=3)
    source = stream.source(location)
    seen = 0
    while seen < 60:
        polled = source.poll(5.0, 7)
        assert len(polled) <= 7
        seen += len(polled)


def test_lag(stream: Stream) -> None:
    location, _ = fill(stream, 30, partitions=2)
    source = stream.source(location)
    read(source, 10, max_records=10)
    read(source, 20)
    assert source.lag() == dict.fromkeys(source.partitions(), 0)


def test_the_lag_of_an_empty_topic_becomes_known(stream: Stream) -> None:
    source = stream.source(stream.new_topic(2))
    deadline = time.monotonic() + 20
    while set(source.lag()) != source.partitions() and time.monotonic() < deadline:
        source.poll(0.1, 10)
    assert source.lag() == dict.fromkeys(source.partitions(), 0)


class TestStart:
    def test_at_given_offsets(self, stream: Stream) -> None:
        location, _ = fill(stream, 90, partitions=3)
        everything = by_partition(read(stream.source(location, group="first"), 90))
        wanted = {number: envelopes[len(envelopes) // 2].offset for number, envelopes in everything.items()}
        expected = {
            (each.partition, each.offset)
            for envelopes in everything.values()
            for each in envelopes
            if each.offset >= wanted[each.partition]
        }
        source = stream.source(location, group="second", start_at=lambda each: wanted[each.partition])
        found = read(source, len(expected))
        assert {(each.partition, each.offset) for each in found} == expected
        assert source.poll(stream.a_while_s, 10) == []

    def test_without_a_commit_at_the_earliest(self, stream: Stream) -> None:
        location, _ = fill(stream, 5)
        assert len(read(stream.source(location), 5)) == 5

    def test_at_the_committed_offset_after_a_close(self, stream: Stream) -> None:
        location, _ = fill(stream, 20)
        source = stream.source(location)
        found = read(source, 8, max_records=8)
        source.commit({found[-1].topic_partition: found[-1].offset + 1})
        source.close()
        source.close()
        rest = read(stream.source(location), 12)
        assert rest[0].offset == found[-1].offset + 1

    def test_at_the_beginning_again_after_a_close_without_commit(self, stream: Stream) -> None:
        location, _ = fill(stream, 5)
        source = stream.source(location)
        read(source, 5)
        source.close()
        assert len(read(stream.source(location), 5)) == 5

    def test_given_offsets_go_before_committed_ones(self, stream: Stream) -> None:
        location, _ = fill(stream, 10)
        source = stream.source(location)
        found = read(source, 10)
        source.commit(source.positions())
        source.close()
        again = read(stream.source(location, start_at=lambda _each: found[3].offset), 7)
        assert again[0].offset == found[3].offset

    def test_at_the_end_waits_for_what_comes(self, stream: Stream) -> None:
        location, _ = fill(stream, 10)
        source = stream.source(location)
        end = read(source, 10)[-1].offset + 1
        source.close()
        late = stream.source(location, start_at=lambda _each: end)
        assert late.poll(stream.a_while_s, 10) == []
        sink = stream.sink(location)
        sink.append(examples(1, "late")[0])
        sink.flush()
        (found,) = read(late, 1)
        assert found.offset == end

    def test_behind_the_end_is_another_stream_and_refused(self, stream: Stream) -> None:
        """Positions from a log that was lost: nothing may be skipped silently."""
        location, _ = fill(stream, 10)

        def begin_and_read() -> None:
            source = stream.source(location, start_at=lambda _each: 1_000)
            for _ in range(100):
                source.poll(0.2, 10)

        with pytest.raises(StreamError, match="1000"):
            begin_and_read()

    def test_an_error_of_the_caller_surfaces(self, stream: Stream) -> None:
        location, _ = fill(stream, 3)

        def broken(_each: TopicPartition) -> int:
            raise LookupError("no watermark")

        def begin_and_read() -> None:
            source = stream.source(location, start_at=broken)
            for _ in range(100):
                assert source.poll(0.2, 10) == []

        with pytest.raises((StreamError, LookupError), match="no watermark"):
            begin_and_read()


class TestPause:
    def test_paused_partitions_are_not_polled(self, stream: Stream) -> None:
        location, _ = fill(stream, 60, partitions=3)
        quiet = TopicPartition(location.topic, 1)
        source = stream.source(location)
        source.pause([quiet])
        settled: list[Envelope] = []
        while not settled or len(source.lag()) < 2 or any(lag for each, lag in source.lag().items() if each != quiet):
            settled += source.poll(0.2, 10)
        assert source.poll(stream.a_while_s, 10) == []
        assert {each.partition for each in settled} == {0, 2}
        position = source.positions().get(quiet, 0)
        source.resume([quiet])
        rest = read(source, 60 - len(settled))
        assert {each.partition for each in rest} == {1}
        assert rest[0].offset == position

    def test_what_was_fetched_ahead_is_held_back(self, stream: Stream) -> None:
        location, _ = fill(stream, 100)
        only = TopicPartition(location.topic, 0)
        source = stream.source(location)
        found = read(source, 10, max_records=10)
        source.pause([only])
        assert source.poll(stream.a_while_s, 100) == []
        assert source.positions() == {only: found[-1].offset + 1}
        source.resume([only])
        assert read(source, 90)[0].offset == found[-1].offset + 1

    def test_all_paused_waits_without_spinning(self, stream: Stream) -> None:
        location, _ = fill(stream, 10)
        source = stream.source(location)
        settle(source)
        source.pause(source.assignment())
        assert_idle(lambda: source.poll(0.5, 10))


class TestWaiting:
    def test_an_empty_poll_waits_without_spinning(self, stream: Stream) -> None:
        source = stream.source(stream.new_topic())
        settle(source)
        assert_idle(lambda: source.poll(0.5, 10))

    def test_a_poll_without_patience_returns_at_once(self, stream: Stream) -> None:
        source = stream.source(stream.new_topic())
        settle(source)
        began = time.monotonic()
        assert source.poll(0.0, 10) == []
        assert time.monotonic() - began < 0.5

    def test_a_waiting_poll_wakes_for_a_record(self, stream: Stream) -> None:
        location = stream.new_topic()
        source = stream.source(location)
        settle(source)
        sink = stream.sink(location)

        def write() -> None:
            sink.append(examples(1)[0])
            sink.flush()

        writer = threading.Timer(0.2, write)
        writer.start()
        try:
            began = time.monotonic()
            found = source.poll(10.0, 10)
            assert len(found) == 1
            assert time.monotonic() - began < 5
        finally:
            writer.join()


class TestGroups:
    def test_two_groups_read_everything(self, stream: Stream) -> None:
        location, _ = fill(stream, 10)
        assert len(read(stream.source(location, group="a"), 10)) == 10
        assert len(read(stream.source(location, group="b"), 10)) == 10

    def test_without_a_group_everything_is_read_and_nothing_noted(self, stream: Stream) -> None:
        location, _ = fill(stream, 10, partitions=2)
        for _ in range(2):
            source = stream.source(location, group=None, start_at=from_beginning)
            assert source.assignment() == source.partitions()
            assert len(read(source, 10)) == 10
            source.commit(source.positions())
            source.close()

    def test_offsets_of_partitions_not_held_are_not_committed(self, stream: Stream) -> None:
        location, _ = fill(stream, 3)
        source = stream.source(location)
        read(source, 3)
        source.commit({})
        source.commit({TopicPartition(location.topic, 99): 5})


class TestTopics:
    def test_a_missing_topic_is_named(self, stream: Stream) -> None:
        location = stream.location("nowhere")
        for opener in (stream.source, stream.sink):
            with pytest.raises(StreamError, match=r"no topic 'nowhere'.*ensure_topic"):
                opener(location)

    def test_creating_twice_keeps_the_first_number(self, stream: Stream) -> None:
        location = stream.new_topic(3)
        assert ensure_topic(location, 3, options=stream.options) == 3
        assert ensure_topic(location, 5, options=stream.options) == 3
        assert len(stream.source(location).partitions()) == 3

    def test_a_topic_has_partitions(self, stream: Stream) -> None:
        with pytest.raises(StreamError, match="at least 1 partition"):
            ensure_topic(stream.location("empty"), 0, options=stream.options)


def test_a_burst_arrives_whole(stream: Stream) -> None:
    location, records = fill(stream, 20_000, partitions=2)
    found = read(stream.source(location), 20_000, max_records=5_000)
    assert {each.key for each in found} == {record.id.encode() for record in records}


def assert_idle(wait) -> None:
    """The call takes about its half second, and next to no processor time."""
    began, worked = time.monotonic(), time.process_time()
    assert wait() == []
    elapsed = time.monotonic() - began
    assert 0.4 < elapsed < 4
    assert time.process_time() - worked < 0.4 * elapsed
