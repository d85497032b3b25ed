"""A log is known by its identity, not by its name or length: another one under the same name is never read on."""

from __future__ import annotations

import sqlite3
import time
from pathlib import Path

import pytest
from kafka import KafkaAdminClient

from streaming.broker import TansuBroker
from streaming.embedded_log import EmbeddedLog
from streaming.errors import LogReplaced, StreamError
from streaming.kafka_client import build
from streaming.kafka_topic import KafkaTopic
from streaming.location import StreamLocation, ensure_topic, open_sink, open_source
from streaming.source import RecordSource, check_identity
from tests.streaming.streams import Stream, read


def append(stream: Stream, location: StreamLocation, count: int) -> None:
    sink = open_sink(location, options=stream.options)
    for number in range(count):
        sink.append_raw(b"%d" % number, (), b"k%d" % number)
    sink.flush()
    sink.close()


def recreate(stream: Stream, location: StreamLocation, partitions: int = 1) -> None:
    """Delete the topic, its records with it, and create one of the same name."""
    if location.path is not None:
        for name in ("", "-wal", "-shm"):
            location.path.with_name(location.path.name + name).unlink(missing_ok=True)
        ensure_topic(location, partitions)
        return
    options = stream.kafka_options(location)
    admin = build(KafkaAdminClient, options)
    before = admin.describe_topics([location.topic])[0]["topic_id"]
    admin.delete_topics([location.topic])
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline:
        try:
            ensure_topic(location, partitions, options=stream.options)
            if admin.describe_topics([location.topic])[0]["topic_id"] != before:
                break
        except StreamError:
            pass  # The old one is still being deleted.
        time.sleep(0.1)
    admin.close()


def poll_until_refused(source: RecordSource) -> LogReplaced:
    deadline = time.monotonic() + 60
    with pytest.raises(LogReplaced) as caught:
        while time.monotonic() < deadline:
            assert source.poll(0.2, 100) == [], "nothing of the new log may come"
    assert "\n" not in str(caught.value) and "new home" in str(caught.value)
    return caught.value


def test_every_reader_of_a_log_sees_the_same_identity(stream: Stream) -> None:
    first, second = stream.new_topic(), stream.new_topic()
    name = stream.source(first).identity()
    assert name and name == stream.source(first, group=None).identity()
    assert stream.source(second).identity() not in (None, name)
    append(stream, first, 3)
    assert stream.source(first).identity() == name


@pytest.mark.parametrize("count", [30, 10, 3, 0], ids=["longer", "as long", "shorter", "empty"])
def test_a_topic_made_again_is_noticed_at_opening(stream: Stream, count: int) -> None:
    location = stream.new_topic()
    append(stream, location, 10)
    source = stream.source(location)
    identity = source.identity()
    read(source, 10)
    source.close()
    assert open_source(location, group=None, options=stream.options, expected_identity=identity).close() is None
    recreate(stream, location)
    append(stream, location, count)
    with pytest.raises(LogReplaced) as caught:
        open_source(location, group="again", options=stream.options, expected_identity=identity)
    found = stream.source(location, group="fresh")
    assert f"expected identity {identity}, got {found.identity()}" in str(caught.value)


@pytest.mark.parametrize("count", [30, 10, 3], ids=["longer", "as long", "shorter"])
def test_a_topic_made_again_is_noticed_while_it_is_read(stream: Stream, count: int) -> None:
    location = stream.new_topic()
    append(stream, location, 10)
    source = stream.source(location)
    read(source, 10)
    recreate(stream, location)
    append(stream, location, count)
    poll_until_refused(source)
    with pytest.raises(LogReplaced):  # For good: this source's positions belong to no log any more.
        source.poll(0.1, 10)


@pytest.mark.broker
def test_a_broker_that_forgot_everything_is_noticed(tmp_path: Path) -> None:
    """Tansu keeps its log in memory: after a restart the old positions belong to no log."""
    with TansuBroker(tmp_path) as broker:
        location = StreamLocation("kafka", "forgotten", bootstrap=broker.bootstrap)
        ensure_topic(location, 1)
        sink = open_sink(location)
        for number in range(10):
            sink.append_raw(b"%d" % number, (), b"k")
        sink.close()
        source = open_source(location, group=None)
        try:
            read(source, 10)
            broker.restart()
            ensure_topic(location, 1)
            deadline = time.monotonic() + 60
            with pytest.raises(LogReplaced, match="expected identity"):
                while time.monotonic() < deadline:
                    source.poll(0.5, 10)
        finally:
            source.close()


@pytest.mark.broker
def test_an_outage_between_fetch_and_check_loses_and_repeats_nothing(
    kafka_stream: Stream, monkeypatch: pytest.MonkeyPatch
) -> None:
    location = kafka_stream.new_topic()
    append(kafka_stream, location, 20)
    source = kafka_stream.source(location)
    answers = iter([False, False, True])
    real = type(source)._is_identified  # type: ignore[attr-defined]
    monkeypatch.setattr(type(source), "_is_identified", lambda self: real(self) and next(answers, True))
    found = read(source, 20, max_records=7)
    assert [each.offset for each in found] == sorted({each.offset for each in found}) and len(found) == 20


@pytest.mark.broker
def test_a_topic_says_what_it_takes(kafka_stream: Stream) -> None:
    location = kafka_stream.new_topic(3)
    topic = KafkaTopic(kafka_stream.kafka_options(location), location.topic)
    try:
        assert len(topic.partitions) == 3 and topic.identity()
        assert topic.max_message_bytes() in (None, 1_048_588)
    finally:
        topic.close()
        topic.close()


class TestEmbedded:
    def test_a_file_written_without_identities_gets_them_once(self, tmp_path: Path) -> None:
        path = tmp_path / "s.sqlite"
        log = EmbeddedLog(path)
        log.ensure_topic("a", 3)
        log.ensure_topic("b", 1)
        log.close()
        database = sqlite3.connect(path)
        database.execute("DROP TABLE identity")
        database.commit()
        database.close()
        seen = []
        for _ in range(2):
            log = EmbeddedLog(path)
            seen.append((log.identity("a"), log.identity("b")))
            log.close()
        assert seen[0] == seen[1] and None not in seen[0] and len(set(seen[0])) == 2

    def test_a_copy_of_the_file_is_the_same_log(self, tmp_path: Path) -> None:
        log = EmbeddedLog(tmp_path / "s.sqlite")
        log.ensure_topic("a", 1)
        name = log.identity("a")
        log.close()
        (tmp_path / "copy.sqlite").write_bytes((tmp_path / "s.sqlite").read_bytes())
        copy = EmbeddedLog(tmp_path / "copy.sqlite")
        assert copy.identity("a") == name and copy.identity("none") is None
        copy.close()

    def test_a_writer_notices_that_its_file_is_gone(self, tmp_path: Path) -> None:
        """What it wrote into the deleted file nobody would ever read."""
        location = StreamLocation("embedded", "t", path=tmp_path / "s.sqlite")
        ensure_topic(location, 1)
        sink = open_sink(location)
        sink.append_raw(b"x", (), b"k")
        (tmp_path / "s.sqlite").unlink()
        with pytest.raises(LogReplaced, match="deleted or replaced"):
            sink.flush()
        sink.close()


def test_an_unknown_identity_is_not_compared() -> None:
    check_identity("here", None, "a")
    check_identity("here", "a", None)
    check_identity("here", "a", "a")
    with pytest.raises(LogReplaced, match="expected identity a, got b"):
        check_identity("here", "b", "a")
