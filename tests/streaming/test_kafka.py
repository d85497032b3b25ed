"""What only Kafka has: groups that rebalance, brokers that die, logins, and errors that name the cause."""

from __future__ import annotations

import logging
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from kafka import KafkaAdminClient, KafkaProducer
from kafka import TopicPartition as KafkaPartition

from streaming.broker import ApacheKafkaBroker, TansuBroker, free_port, kafka_home
from streaming.embedded_log import EmbeddedLog
from streaming.errors import BrokerUnavailable, StreamError
from streaming.kafka import KafkaOptions, KafkaSink, KafkaSource, ensure_topic
from streaming.kafka_client import _murmur, build, check_session
from streaming.kafka_options import CLIENTS
from streaming.location import StreamLocation, open_source
from streaming.records import TaskRecord
from streaming.source import Envelope, RecordSource, TopicPartition, from_beginning
from tests.streaming.streams import Stream, poll_together, read, settle, shared_out


def example(name: str) -> TaskRecord:
    return TaskRecord(id=name, domain="bank", prompt="question", completion="x")


class TestOptions:
    @pytest.mark.parametrize(
        ("wrong", "named"),
        [
            ({"security_protocol": "TLS"}, "security_protocol"),
            ({"client": "java"}, "kafka-python, librdkafka"),
            ({"security_protocol": "SASL_SSL"}, "sasl_mechanism"),
            ({"security_protocol": "SASL_SSL", "sasl_mechanism": "GSSAPI"}, "SCRAM-SHA-512"),
            ({"security_protocol": "SASL_PLAINTEXT", "sasl_mechanism": "PLAIN", "sasl_username": "a"}, "password"),
        ],
    )
    def test_contradictions_are_named(self, wrong: dict[str, str], named: str) -> None:
        with pytest.raises(StreamError, match=named):
            KafkaOptions("localhost:9092", **wrong)

    def test_a_login_passes_through_and_is_never_shown(self) -> None:
        options = KafkaOptions(
            "a:1,b:2",
            security_protocol="SASL_SSL",
            sasl_mechanism="SCRAM-SHA-512",
            sasl_username="ann",
            sasl_password="secret-word",
            ssl_key_password="secret-word",
        )
        assert "secret-word" not in repr(options) + str(options) and "ann" in str(options)
        settings = options.client_settings()
        assert settings["bootstrap_servers"] == ["a:1", "b:2"]
        assert settings["sasl_plain_username"] == "ann" and settings["sasl_plain_password"]() == "secret-word"

    def test_a_missing_certificate_file_is_no_outage(self) -> None:
        options = KafkaOptions("127.0.0.1:1", security_protocol="SSL", ssl_cafile="/nowhere/ca.pem")
        with pytest.raises(StreamError, match=r"ca\.pem"):
            check_session(options)


@pytest.fixture
def log() -> Iterator[list[str]]:
    """Names of the loggers whose lines reach the root, as they would an application. (pytest's own capture also listens
    to loggers that don't propagate.)"""
    names: list[str] = []
    handler = logging.Handler()
    handler.emit = lambda record: names.append(record.name)  # type: ignore[method-assign]
    logging.getLogger().addHandler(handler)
    yield names
    logging.getLogger().removeHandler(handler)


class TestUnavailable:
    """Within ten seconds, one line: what, where, what was heard, what to do."""

    def test_no_broker(self) -> None:
        port = free_port()
        for attempt in (
            lambda options: KafkaSource(options, "t", group="g"),
            lambda options: KafkaSink(options, "t"),
            lambda options: ensure_topic(options, "t", 1),
        ):
            with pytest.raises(BrokerUnavailable, match="nothing answers at this address") as caught:
                attempt(KafkaOptions(f"127.0.0.1:{port}", bootstrap_timeout_ms=200))
            assert f"127.0.0.1:{port}" in str(caught.value) and "\n" not in str(caught.value)

    def test_its_patience_is_the_options(self) -> None:
        """What it waits beyond that is far from what the default leaves of the ten seconds."""
        assert KafkaOptions("a:1").bootstrap_timeout_ms <= 7_000
        began = time.monotonic()
        with pytest.raises(BrokerUnavailable):
            check_session(KafkaOptions(f"127.0.0.1:{free_port()}", bootstrap_timeout_ms=500))
        assert 0.4 < time.monotonic() - began < 3.5

    def test_an_unknown_host(self) -> None:
        with pytest.raises(BrokerUnavailable, match=r"broker\.invalid:9092.*DNS"):
            check_session(KafkaOptions("broker.invalid:9092", bootstrap_timeout_ms=200))

    def test_failed_attempts_leave_no_threads(self) -> None:
        before = threading.active_count()
        for _ in range(3):
            with pytest.raises(BrokerUnavailable):
                check_session(KafkaOptions(f"127.0.0.1:{free_port()}", bootstrap_timeout_ms=100))
        assert threading.active_count() == before

    @pytest.mark.broker
    def test_the_library_keeps_quiet(self, apache: ApacheKafkaBroker, log: list[str]) -> None:
        check_session(KafkaOptions(apache.bootstrap))
        assert log == []

    @pytest.mark.broker
    def test_an_outage_is_one_line_in_the_log(self, tmp_path: Path, log: list[str]) -> None:
        with TansuBroker(tmp_path) as broker:
            options = KafkaOptions(broker.bootstrap)
            ensure_topic(options, "quiet", 1)
            source = KafkaSource(options, "quiet", group=None)
            source.poll(0.2, 10)
            _murmur._next = 0.0
            broker.kill()
            for _ in range(6):
                assert source.poll(0.5, 10) == []
            source.close()
        assert log == ["streaming.kafka_client"]


@pytest.mark.broker
class TestGroup:
    def test_two_members_share_and_take_over(self, kafka_stream: Stream) -> None:
        location = kafka_stream.new_topic(4)
        first, second = kafka_stream.source(location), kafka_stream.source(location)
        settle(first, second)
        assert not first.assignment() & second.assignment()
        first.close()
        settle(second)
        assert second.assignment() == second.partitions()
        fill(kafka_stream, location, 40)
        assert len(read(second, 40)) == 40

    def test_each_assignment_begins_where_the_caller_says(self, kafka_stream: Stream) -> None:
        """What a member had read and not noted is read again by whoever takes over; nothing is skipped."""
        location = kafka_stream.new_topic(2)
        fill(kafka_stream, location, 100)
        noted: dict[TopicPartition, int] = {}
        asked: list[TopicPartition] = []

        def start_at(each: TopicPartition) -> int:
            asked.append(each)
            return noted.get(each, 0)

        first = kafka_stream.source(location, start_at=start_at)
        found = read(first, 60)
        for each in found[:30]:
            noted[each.topic_partition] = each.offset + 1
        second = kafka_stream.source(location, start_at=start_at)
        kept = {(each.partition, each.offset) for each in found[:30]}

        def complete(polled: list[Envelope]) -> bool:
            places = {(each.partition, each.offset) for each in polled}
            return shared_out([first, second]) and len(places | kept) == 100

        again = poll_together([first, second], complete)
        assert not {(each.partition, each.offset) for each in again} & kept
        assert len(asked) >= 4

    def test_members_that_poll_seldom_and_shortly_settle_at_once(self, kafka_stream: Stream) -> None:
        """An assignment that arrives between two polls must not send the whole group round again."""
        location = kafka_stream.new_topic(2)
        sources = [kafka_stream.source(location) for _ in range(2)]
        stop = threading.Event()

        def member(source: RecordSource) -> None:
            while not stop.is_set():
                source.poll(0.01, 10)
                time.sleep(0.2)

        threads = [threading.Thread(target=member, args=(source,)) for source in sources]
        for thread in threads:
            thread.start()
        deadline = time.monotonic() + 40
        while not shared_out(sources) and time.monotonic() < deadline:
            time.sleep(0.05)
        stop.set()
        for thread in threads:
            thread.join()
        assert shared_out(sources)
        if kafka_stream.options.client == "kafka-python":  # The other doesn't say.
            assert max(source._consumer.group_metadata().generation_id for source in sources) <= 4

    @pytest.mark.parametrize("kafka_stream", ["apache"], indirect=True)  # Tansu adds no partitions to a topic.
    def test_an_assignment_that_comes_between_two_polls_is_not_lost(self, kafka_stream: Stream) -> None:
        """Not even where the member, as the leader, has shared out what was the reason to join: more partitions."""
        location = kafka_stream.new_topic(1)
        source = kafka_stream.source(location)
        settle(source)
        admin = build(KafkaAdminClient, kafka_stream.kafka_options(location))
        admin.create_partitions({location.topic: 3})
        admin.close()
        coordinator = source._consumer._coordinator  # type: ignore[attr-defined]
        deadline = time.monotonic() + 30
        while not coordinator.rejoining and time.monotonic() < deadline:
            coordinator._cluster.request_update()
            time.sleep(0.05)
            source._consumer.poll(0)  # type: ignore[attr-defined]
        while not coordinator._join_task.is_done and time.monotonic() < deadline:
            time.sleep(0.01)
        assert len(source.assignment()) == 1 and not coordinator.need_rejoin()
        settle(source)
        assert len(source.assignment()) == 3
        fill(kafka_stream, location, 30)
        assert len({each.partition for each in read(source, 30)}) == 3

    @pytest.mark.parametrize("kafka_stream", ["tansu", "apache"], indirect=True)
    def test_a_join_that_failed_between_two_polls_is_begun_again(self, kafka_stream: Stream) -> None:
        """Where its reason is gone meanwhile, as when the metadata are again what they were."""
        location = kafka_stream.new_topic(2)
        source = kafka_stream.source(location)
        settle(source)
        coordinator = source._consumer._coordinator  # type: ignore[attr-defined]
        coordinator.rejoining = True
        coordinator._disable_heartbeat()
        time.sleep(kafka_stream.options.session_timeout_ms / 1000 + 1)  # Apache Kafka has put it out of the group.
        poll_together([source], lambda _found: not coordinator.rejoining)
        assert coordinator.stable() and source.assignment() == source.partitions()
        fill(kafka_stream, location, 20)
        assert len(read(source, 20)) == 20

    def test_a_pause_outlasts_a_rebalance(self, kafka_stream: Stream) -> None:
        location = kafka_stream.new_topic(2)
        fill(kafka_stream, location, 40)
        first = kafka_stream.source(location)
        first.pause(TopicPartition(location.topic, number) for number in range(2))
        settle(first)
        second = kafka_stream.source(location)
        second.pause(TopicPartition(location.topic, number) for number in range(2))
        settle(first, second)
        assert first.poll(1.0, 10) == []
        second.close()
        settle(first)
        assert first.poll(1.0, 10) == []
        first.resume(first.partitions())
        assert len(read(first, 40)) == 40

    def test_a_commit_after_the_partitions_are_gone_is_no_error(self, kafka_stream: Stream) -> None:
        location = kafka_stream.new_topic(1)
        fill(kafka_stream, location, 5)
        options = replace(kafka_stream.options, max_poll_interval_ms=3_000)
        late = open_source(location, group="late", options=options)
        try:
            found = read(late, 5)
            time.sleep(4)  # Longer than the longest pause between polls: the member is put out of its group.
            late.commit({found[0].topic_partition: 5})
        finally:
            late.close()


@pytest.mark.broker
@pytest.mark.parametrize("kafka_stream", ["apache", "apache-librdkafka"], indirect=True)
def test_a_log_begins_where_retention_has_left_it(kafka_stream: Stream) -> None:
    """Only Apache Kafka deletes on request what its retention would."""
    location = kafka_stream.new_topic()
    fill(kafka_stream, location, 12)
    admin = build(KafkaAdminClient, kafka_stream.kafka_options(location))
    admin.delete_records({KafkaPartition(location.topic, 0): 7})
    admin.close()
    source = kafka_stream.source(location, start_at=from_beginning)
    assert [each.offset for each in read(source, 5)] == [7, 8, 9, 10, 11]
    assert source.bounds(TopicPartition(location.topic, 0)) == (7, 12)


@pytest.mark.broker
@pytest.mark.parametrize("kafka_stream", ["apache", "apache-librdkafka"], indirect=True)
def test_a_log_ends_behind_an_open_transaction_where_a_fetch_has_seen_it(kafka_stream: Stream) -> None:
    """Nobody may read on from there yet; only Apache Kafka holds readers back."""
    location = kafka_stream.new_topic()
    only = TopicPartition(location.topic, 0)
    fill(kafka_stream, location, 4)
    producer = build(KafkaProducer, kafka_stream.kafka_options(location), transactional_id=location.topic)
    producer.init_transactions()
    producer.begin_transaction()
    producer.send(location.topic, b"not committed")
    producer.flush()
    fill(kafka_stream, location, 3)
    source = kafka_stream.source(location, start_at=from_beginning)
    source.pause([only])
    settle(source)
    # librdkafka fetches in a thread of its own, which may have been there before the pause.
    fetches_by_itself = kafka_stream.kafka_options(location).client == "librdkafka"
    assert source.bounds(only) in ((0, 4), *([(0, 8)] if fetches_by_itself else ()))
    source.resume([only])
    assert [each.offset for each in read(source, 4)] == [0, 1, 2, 3]
    assert source.poll(kafka_stream.a_while_s, 10) == []
    assert source.bounds(only) == (0, 8)
    producer.abort_transaction()
    producer.close()


class NoText(str):
    """A name that goes out as bytes which are no UTF-8."""

    def encode(self, *_how: str) -> bytes:  # type: ignore[override]
        return b"\xff\xfe"


@pytest.mark.broker
@pytest.mark.parametrize("kafka_stream", ["apache-librdkafka"], indirect=True)
def test_a_header_whose_name_is_no_text_is_left_out_and_stops_nothing(kafka_stream: Stream) -> None:
    """As often as it takes for CPython to call the library the short way, which would end the process."""
    location = kafka_stream.new_topic()
    fill(kafka_stream, location, 300)
    sink = kafka_stream.sink(location)
    sink._producer.send(location.topic, b"odd", key=b"odd", headers=[(NoText("xx"), b"v")])  # type: ignore[attr-defined]
    fill(kafka_stream, location, 300)
    sink._producer.flush()  # type: ignore[attr-defined]
    found = read(kafka_stream.source(location), 601)
    (odd,) = [each for each in found if each.key == b"odd"]
    assert (odd.value, odd.headers) == (b"odd", ())


@pytest.mark.broker
@pytest.mark.slow
@pytest.mark.parametrize("client", CLIENTS)
def test_a_reader_goes_on_when_its_broker_comes_back(mortal: ApacheKafkaBroker, client: str) -> None:
    """What was polled is not polled again, what was written meanwhile is; the outage has a reason."""
    options = KafkaOptions(mortal.bootstrap, session_timeout_ms=6_000, client=client, delivery_timeout_ms=200_000)
    ensure_topic(options, "back", 1)
    only, sink = TopicPartition("back", 0), KafkaSink(options, "back")
    noted = {only: 0}
    location = StreamLocation("kafka", "back", bootstrap=mortal.bootstrap)
    source = open_source(location, group="g", start_at=noted.__getitem__, options=options)
    try:
        for number in range(100):
            sink.append(example(f"r{number}"))
        sink.flush()
        noted[only] = read(source, 100)[-1].offset + 1
        mortal.kill()
        for _ in range(4):
            assert source.poll(0.5, 10) == []
        with pytest.raises(BrokerUnavailable, match="nothing answers at this address"):
            source.bounds(only)
        mortal.start()
        for number in range(100):
            sink.append(example(f"s{number}"))
        sink.flush()
        found = read(source, 100, timeout_s=90)
        assert [each.offset for each in found] == list(range(100, 200))
    finally:
        source.close()
        sink.close()


@pytest.mark.broker
def test_a_record_above_the_limit_is_refused_with_its_size(kafka_stream: Stream) -> None:
    location = kafka_stream.new_topic()
    sink = kafka_stream.sink(location)
    with pytest.raises(StreamError, match="2000"):
        sink.append_raw(b"x" * 2_000_000)
    sink.append(example("small"))
    sink.flush()


@pytest.mark.broker
def test_ids_choose_the_same_partition_as_every_kafka_client(kafka_stream: Stream) -> None:
    """Known answers of murmur2 with four partitions: a producer in another language agrees."""
    from kafka.partitioner.default import murmur2

    location = kafka_stream.new_topic(4)
    fill(kafka_stream, location, 20)
    for each in read(kafka_stream.source(location), 20):
        assert each.key is not None
        assert each.partition == (murmur2(each.key) & 0x7FFFFFFF) % 4
    assert murmur2(b"21") == -973932308 & 0xFFFFFFFF


@pytest.fixture
def mortal(tmp_path: Path) -> Iterator[ApacheKafkaBroker]:
    """A broker of the test's own, to be killed."""
    home = kafka_home()
    if home is None:
        pytest.skip("no Apache Kafka: set KAFKA_HOME to a folder with libs/*.jar")
    with ApacheKafkaBroker(home, tmp_path / "mortal") as broker:
        yield broker


@pytest.mark.broker
@pytest.mark.slow
def test_acknowledged_records_survive_the_brokers_death(mortal: ApacheKafkaBroker) -> None:
    """SIGKILL while a producer writes, then a restart: what was acknowledged is there once, and the reader goes on."""
    # A Java broker on a busy machine may take more than a minute to come back.
    options = KafkaOptions(mortal.bootstrap, session_timeout_ms=6_000, delivery_timeout_ms=280_000)
    ensure_topic(options, "durable", 2)
    source = KafkaSource(options, "durable", group="survivors")
    sink = KafkaSink(options, "durable")
    try:
        found = []
        for number in range(3_000):
            sink.append(example(f"r{number}"))
            if number == 1_000:
                sink.flush()
                found += read(source, 500)
            if number == 2_000:
                mortal.kill()
                found += source.poll(0.5, 500)
        restart = threading.Thread(target=mortal.start)
        restart.start()
        sink.flush()
        restart.join()
        found += read(source, 3_000 - len(found), timeout_s=60)
        assert len({(each.partition, each.offset) for each in found}) == 3_000
        assert {each.key for each in found} == {f"r{number}".encode() for number in range(3_000)}
        assert source.poll(1.0, 10) == []
    finally:
        source.close()
        sink.close()


@pytest.mark.broker
def test_a_flush_without_a_broker_raises(tmp_path: Path) -> None:
    with TansuBroker(tmp_path) as broker:
        options = KafkaOptions(broker.bootstrap, delivery_timeout_ms=3_000)
        ensure_topic(options, "lost", 1)
        sink = KafkaSink(options, "lost")
        sink.append(example("kept"))
        sink.flush()
        broker.kill()
        sink.append(example("lost"))
        began = time.monotonic()
        with pytest.raises(BrokerUnavailable, match=r"'lost'.*send what was appended since the last flush again"):
            sink.flush()
        assert time.monotonic() - began < 20
        sink.close()


@pytest.mark.broker
def test_a_sink_goes_on_after_an_outage_longer_than_its_patience(tmp_path: Path) -> None:
    """Whatever the client library makes of a record that outlived its delivery time-out."""
    with TansuBroker(tmp_path) as broker:
        options = KafkaOptions(broker.bootstrap, delivery_timeout_ms=3_000, bootstrap_timeout_ms=2_000)
        ensure_topic(options, "long", 2)
        sink = KafkaSink(options, "long")
        sink.append(example("before"))
        sink.flush()
        broker.kill()
        for _ in range(2):
            with pytest.raises(BrokerUnavailable):
                for number in range(3_000):
                    sink.append(example(f"r{number}"))
                    if number == 1_000:
                        time.sleep(2)
                sink.flush()
        threads = threading.active_count()
        broker.start()
        ensure_topic(options, "long", 2)
        for number in range(3_000):
            sink.append(example(f"r{number}"))
        sink.flush()
        source = KafkaSource(options, "long", group=None)
        try:
            assert len({each.key for each in read(source, 3_000)}) == 3_000
        finally:
            source.close()
            sink.close()
        assert threading.active_count() <= threads


def fill(stream: Stream, location, count: int) -> None:
    sink = stream.sink(location)
    for number in range(count):
        sink.append(example(f"r{number}"))
    sink.flush()


def test_a_client_that_is_not_installed_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "confluent_kafka", None)
    monkeypatch.delitem(sys.modules, "streaming.librdkafka", raising=False)
    location = StreamLocation("kafka", "t", bootstrap="127.0.0.1:1")
    with pytest.raises(StreamError, match=r"confluent-kafka.*install it, or set ingest\.client to kafka-python"):
        open_source(location, group="g", options=KafkaOptions("127.0.0.1:1", client="librdkafka"))


def test_the_embedded_log_needs_no_broker(tmp_path: Path) -> None:
    assert EmbeddedLog(tmp_path / "s.sqlite").ensure_topic("t", 1) == 1
