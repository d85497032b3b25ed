"""A topic of the real broker as a house uses a stream, and what only a broker has: transactions and compaction."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterable, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from kafka import KafkaAdminClient, KafkaProducer

from streaming.broker import ApacheKafkaBroker, kafka_home
from streaming.dead_letters import DeadLetters
from streaming.entries import EntryLimits
from streaming.errors import BrokerUnavailable
from streaming.kafka_client import build
from streaming.kafka_options import KafkaOptions
from streaming.location import StreamLocation, ensure_topic, open_dead_letters, open_sink, open_source
from streaming.records import EndOfDomain, TaskRecord
from streaming.source import RecordSink, RecordSource, StartAt, TopicPartition, from_beginning

Records = Iterable[TaskRecord | EndOfDomain]

# Times of production, made short: a member that is silent for a second and a half is gone, a log is cleaned at once.
QUICK = {
    "group.min.session.timeout.ms": "500",
    "log.cleaner.backoff.ms": "200",
    "log.retention.check.interval.ms": "500",
}


def broker_in(folder: Path) -> ApacheKafkaBroker:
    """Apache Kafka, not started yet; the test is skipped where there is none."""
    home = kafka_home()
    if home is None:
        pytest.skip("no Apache Kafka: set KAFKA_HOME to a folder with libs/*.jar")
    return ApacheKafkaBroker(home, folder, properties=QUICK)


class KafkaStream:
    """A topic, and its dead letters; members say which they are by their order."""

    def __init__(
        self,
        broker: ApacheKafkaBroker,
        topic: str,
        partitions: int,
        config: dict[str, str] | None = None,
        *,
        client: str = "kafka-python",
        **times: int,
    ) -> None:
        self.location = StreamLocation("kafka", topic, bootstrap=broker.bootstrap)
        self.options = KafkaOptions(broker.bootstrap, client=client, **{"session_timeout_ms": 1_500, **times})  # type: ignore[arg-type]
        if config is not None:
            admin = build(KafkaAdminClient, self.options)
            admin.create_topics({topic: {"num_partitions": partitions, "replication_factor": 1, "configs": config}})
            admin.wait_for_topics([topic])
            admin.close()
        ensure_topic(self.location, partitions, options=self.options)
        self.sink: RecordSink = open_sink(self.location, options=self.options)
        self.letters: DeadLetters = open_dead_letters(self.location, options=self.options)
        self._reader = open_source(self.location, group=None, options=self.options)

    def open(self, start_at: StartAt, member: int, members: int) -> RecordSource:
        return open_source(self.location, group="house", start_at=start_at, options=self.options)

    def send(self, records: Records) -> None:
        for record in records:
            self.sink.append(record)
        self.sink.flush()

    @contextmanager
    def transaction(self, name: str) -> Any:
        """Yields what sends records in a transaction; it is taken back where the block raises `TakenBack`."""
        producer = build(KafkaProducer, self.options, transactional_id=name)
        producer.init_transactions()
        producer.begin_transaction()

        def send(records: Sequence[TaskRecord | EndOfDomain]) -> None:
            for entry in EntryLimits().encode_all(records):
                everywhere = [each.partition for each in self._reader.partitions()]
                for partition in everywhere if entry.is_marker else [None]:
                    headers = list(entry.headers)
                    producer.send(self.location.topic, entry.value, key=entry.key, headers=headers, partition=partition)
            producer.flush()

        try:
            yield send
            producer.commit_transaction()
        except TakenBack:
            producer.abort_transaction()
        finally:
            producer.close()

    def ends(self) -> dict[TopicPartition, int]:
        # A busy machine's broker may take longer than the two seconds that a reader gives it.
        for patience in (9, 8, 7, 6, 5, 4, 3, 2, 1, 0):
            try:
                return {each: self._reader.bounds(each)[1] for each in self._reader.partitions()}
            except BrokerUnavailable:
                if not patience:
                    raise
        raise AssertionError

    def offsets(self) -> list[int]:
        """Of all records that the broker still gives."""
        source = open_source(self.location, group=None, start_at=from_beginning, options=self.options)
        found: list[int] = []
        try:
            while set(lag := source.lag()) != source.partitions() or any(lag.values()):
                found += [each.offset for each in source.poll(0.2, 500)]
        finally:
            source.close()
        return found

    def close(self) -> None:
        self.sink.close()
        self.letters.close()
        self._reader.close()


class TakenBack(Exception):
    """A transaction is given up."""


@contextmanager
def at_work(ingests: Sequence[Any]) -> Any:
    """Both loops of each worker run in threads, as they do in production, and are stopped in the end."""
    for each in ingests:
        each.start()
    try:
        yield
    finally:
        for loop in [loop for each in ingests for loop in each._loops]:
            assert loop.stop(30.0)


def until(done: Any, within_s: float = 90.0) -> None:
    """Wait until something holds."""
    deadline = time.monotonic() + within_s
    while not done():
        assert time.monotonic() < deadline, "did not come about"
        threading.Event().wait(0.05)
