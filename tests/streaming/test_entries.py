"""What a sink takes is checked before anything is written, by one count for every kind of stream."""

from __future__ import annotations

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from kafka import KafkaAdminClient
from kafka.record.default_records import DefaultRecordBatchBuilder

from streaming.entries import MAX_ENTRY_BYTES, EntryLimits
from streaming.errors import EntryRefused, RecordError, TooLarge
from streaming.kafka_client import build
from streaming.location import StreamLocation, open_sink
from streaming.records import EndOfDomain, TaskRecord
from streaming.source import Envelope
from streaming.wire import encode, entry_bytes
from tests.streaming.streams import Stream, read


def record(name: str, completion: str = "x") -> TaskRecord:
    return TaskRecord(id=name, domain="bank", prompt="question", completion=completion)


def contents(most: int) -> st.SearchStrategy[bytes]:
    """Of every size up to `most`; what they hold does not count."""
    return st.integers(0, most).map(bytes)


headers = st.lists(st.tuples(st.text(max_size=100), contents(300)), max_size=4).map(tuple)


@given(st.none() | contents(20_000), headers.filter(lambda all_: _encodable(all_)), st.none() | contents(300))
@example(bytes(63), (("h" * 64, bytes(8191)),), bytes(8192)).via("where lengths get longer themselves")
@example(bytes(64), (("h" * 63, bytes(8192)),), bytes(8191)).via("where lengths get longer themselves")
def test_the_count_is_the_one_of_kafkas_clients(value, carried, key) -> None:
    assert entry_bytes(value, carried, key) == DefaultRecordBatchBuilder.estimate_size_in_bytes(key, value, carried)


def _encodable(carried) -> bool:
    return all(name.isprintable() for name, _ in carried)


@pytest.mark.parametrize(
    "parts",
    [
        {"value": b"x" * MAX_ENTRY_BYTES},
        {"value": b"x", "key": b"k" * MAX_ENTRY_BYTES},
        {"value": b"x", "headers": (("h", b"y" * MAX_ENTRY_BYTES),)},
        {"value": b"x", "headers": (("n" * MAX_ENTRY_BYTES, b""),)},
        {"value": b"x" * 400_000, "key": b"k" * 400_000, "headers": (("h", b"y" * 400_000),)},
    ],
    ids=["value", "key", "header", "header's name", "together"],
)
def test_an_entry_too_large_is_refused_and_nothing_of_it_is_written(stream: Stream, parts) -> None:
    location = stream.new_topic()
    sink = stream.sink(location)
    with pytest.raises(TooLarge, match=f"at most {MAX_ENTRY_BYTES}"):
        sink.append_raw(**parts)
    sink.append_raw(b"small", (), b"k")
    sink.flush()
    assert [each.value for each in read(stream.source(location), 1)] == [b"small"]


def test_the_largest_entry_is_taken(stream: Stream) -> None:
    location = stream.new_topic()
    sink = stream.sink(location)
    room = sink.limits.entry_bytes - entry_bytes(b"", (), b"k") - 2
    sink.append_raw(b"x" * room, (), b"k")
    sink.flush()
    assert len(read(stream.source(location), 1)[0].value or b"") == room
    with pytest.raises(TooLarge):
        sink.append_raw(b"x" * (room + 1), (), b"k")


def test_all_records_are_checked_before_the_first_is_written(stream: Stream) -> None:
    location = stream.new_topic(2)
    sink = stream.sink(location)
    good = [record("a"), EndOfDomain(domain="bank"), record("c")]
    with pytest.raises(TooLarge, match=r"record 'b': \d+ bytes .*\(number 2 of 4\)"):
        sink.append_all([good[0], record("b", "x" * 1_200_000), *good[1:]])
    sink.append_all(good)
    sink.append_all([])
    assert len(read(stream.source(location), 4)) == 4


def test_the_readers_limit_is_the_values(stream: Stream) -> None:
    location = stream.new_topic()
    one = record("a", "x" * 500)
    size = len(encode(one)[0])
    fitting = open_sink(location, options=stream.options, max_value_bytes=size)
    fitting.append_all([one])
    fitting.close()
    narrow = open_sink(location, options=stream.options, max_value_bytes=size - 1)
    with pytest.raises(TooLarge, match=f"record 'a': {size} bytes, expected at most {size - 1}"):
        narrow.append(one)
    narrow.append_raw(b"x" * 2 * size, (), b"k")
    narrow.close()
    assert len(read(stream.source(location), 2)) == 2


def test_what_no_log_takes_is_refused_as_such() -> None:
    limits = EntryLimits()
    with pytest.raises(EntryRefused, match="neither"):
        limits.check(None, (), None)
    with pytest.raises(EntryRefused, match="surrogate"):
        limits.check(b"x", (("\ud800", b""),), None)


def configure(stream: Stream, location: StreamLocation, **configs: str) -> None:
    """Make the topic with settings of its own."""
    admin = build(KafkaAdminClient, stream.kafka_options(location))
    topic = {
        "num_partitions": 1,
        "replication_factor": 1,
        "configs": {k.replace("_", "."): v for k, v in configs.items()},
    }
    admin.create_topics({location.topic: topic})
    admin.wait_for_topics([location.topic])
    admin.close()


@pytest.mark.broker
@pytest.mark.parametrize("kafka_stream", ["apache"], indirect=True)
class TestTopicsOfTheirOwn:
    """Only Apache Kafka keeps a topic's own settings."""

    def test_a_topics_own_limit_counts(self, kafka_stream: Stream) -> None:
        location = kafka_stream.location("narrow")
        configure(kafka_stream, location, max_message_bytes="10000")
        sink = kafka_stream.sink(location)
        assert sink.limits.entry_bytes == 10_000
        with pytest.raises(TooLarge, match="at most 10000"):
            sink.append_all([record("a"), record("b", "x" * 10_000)])
        sink.append_all([record(f"r{number}", "x" * 3_000) for number in range(40)])
        assert len(read(kafka_stream.source(location), 40)) == 40

    def test_letters_fit_into_a_narrow_topic(self, kafka_stream: Stream) -> None:
        location = kafka_stream.location("parent")
        configure(kafka_stream, location.dead_letters, max_message_bytes="10000")
        letters = kafka_stream.dead_letters(location)
        wide = Envelope("t", 0, 1, b"k" * 90_000, b"x" * 90_000, (("h", b"y" * 90_000), ("i", b"z")), 0)
        assert letters.put(wide, RecordError("undecodable", "x"))
        (letter,) = letters.list()
        assert letter.value and letter.key and letter.headers == (("i", b"z"),)

    def test_a_letter_that_the_broker_refuses_is_reported(self, kafka_stream: Stream) -> None:
        """A compacted topic takes nothing without a key, and says so only when it is written."""
        location = kafka_stream.location("compacted")
        configure(kafka_stream, location, cleanup_policy="compact")
        letters = kafka_stream.dead_letters(location)
        for number, key in enumerate([b"a", None, b"c"]):
            letters.put(Envelope("t", 0, number, key, b"v", (), 0), RecordError("undecodable", "x"))
        sink = kafka_stream.sink(location)
        for expected in (2, 0):
            replay = letters.replay(sink)
            assert replay.replayed == expected
            assert [each.letter.offset for each in replay.unsent] == [1]
        found = read(kafka_stream.source(location), 2)
        assert [each.key for each in found] == [b"a", b"c"]
