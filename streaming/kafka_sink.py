"""The writing half of the Kafka stream: `RecordSink` over kafka-python's idempotent producer.

Acks come from all in-sync replicas, so the producer's own retries neither lose, repeat nor reorder; a sender that
starts again may repeat, which record ids undo. It does not know what the bytes mean.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from contextlib import AbstractContextManager, suppress

from kafka import KafkaProducer
from kafka.errors import (
    InvalidRecordError,
    InvalidTimestampError,
    KafkaError,
    KafkaTimeoutError,
    MessageSizeTooLargeError,
    RecordListTooLargeError,
    RetriableError,
)

from streaming.entries import Entry, EntryLimits
from streaming.errors import BrokerUnavailable, EntryRefused, StreamError
from streaming.kafka_client import build, connections_of
from streaming.kafka_options import KafkaOptions
from streaming.kafka_topic import KafkaTopic
from streaming.kafka_trouble import missing_right, no_session, plain_errors
from streaming.records import EndOfDomain, TaskRecord
from streaming.wire import Headers

_REQUEST_TIMEOUT_MS = 15_000
_LINGER_MS = 5
_BATCH_BYTES = 131_072
_SLICE_S = 1.0
_CLOSE_TIMEOUT_S = 10.0
# The producer buffers without bound; this many unacknowledged records are enough to keep it busy.
_MAX_UNACKNOWLEDGED = 50_000

_REFUSALS = (InvalidRecordError, InvalidTimestampError, MessageSizeTooLargeError, RecordListTooLargeError)
# What the others of a batch get, by no error of its own, where the broker refuses one of them.
_REFUSED_BESIDE = "part of a batch which had one more more invalid records"


class KafkaSink:
    """`RecordSink` over a topic. Keys choose the partition as every Kafka client does (murmur2).

    The largest entry is what both `options` and the topic allow. A flush that fails gives up its producer, and the next
    append takes a new one: kafka-python's does not recover once a record has outlived `delivery_timeout_ms` in an
    outage. Raises BrokerUnavailable without a session, StreamError where the topic is missing.
    """

    def __init__(self, options: KafkaOptions, topic: str, *, max_value_bytes: int | None = None) -> None:
        # Asked of the admin client: a producer would wait its whole timeout for a topic that isn't there.
        described = KafkaTopic(options, topic)
        try:
            self._partitions = described.partitions
            allowed = described.max_message_bytes()
        finally:
            described.close()
        limit = options.max_request_bytes if allowed is None else min(options.max_request_bytes, allowed)
        self._limits = EntryLimits(limit, max_value_bytes)
        self._options = options
        self._topic = topic
        self._closed = False
        self._unacknowledged = 0
        self._producer: KafkaProducer | None = self._build()
        self._losses = _Losses()

    @property
    def limits(self) -> EntryLimits:
        return self._limits

    def append(self, record: TaskRecord | EndOfDomain) -> None:
        self._append(self._limits.encode(record))

    def append_raw(self, value: bytes | None, headers: Headers = (), key: bytes | None = None) -> None:
        try:
            self._limits.check(value, headers, key)
        except EntryRefused as error:
            raise type(error)(f"writing to {self._topic!r}: {error}") from None
        self._send(value, headers, key, None)

    def append_all(self, records: Sequence[TaskRecord | EndOfDomain]) -> None:
        entries = self._limits.encode_all(records)
        try:
            for entry in entries:
                self._append(entry)
            self.flush()
        except BaseException:
            # What was sent of these is not left behind for the next flush to wait for and to report.
            self._unacknowledged = 0
            self._give_up()
            raise

    def flush(self) -> None:
        if self._producer is None or not self._unacknowledged:
            return
        count, self._unacknowledged = self._unacknowledged, 0
        try:
            acknowledged = self._wait(self._producer)
        except BaseException:
            self._give_up()
            raise
        lost, error = self._losses.count, self._losses.first
        if acknowledged and not lost:
            return
        kind, why = _kind(error), self._why(error)
        self._give_up()
        raise kind(
            f"writing to {self._topic!r}: {lost or 'some'} of {count} record(s) were not accepted by {self._options}:"
            f" {why}; send what was appended since the last flush again"
        ) from error

    def close(self) -> None:
        if self._closed:
            return
        self._closed = True
        try:
            self.flush()
        finally:
            if self._producer is not None:
                with self._plain_errors(f"closing the writer of {self._topic!r}"):
                    self._producer.close(timeout=_CLOSE_TIMEOUT_S)

    def _build(self) -> KafkaProducer:
        return build(
            KafkaProducer,
            self._options,
            acks="all",
            enable_idempotence=True,
            allow_auto_create_topics=False,
            linger_ms=_LINGER_MS,
            batch_size=min(_BATCH_BYTES, self._limits.entry_bytes),
            delivery_timeout_ms=self._options.delivery_timeout_ms,
            request_timeout_ms=min(_REQUEST_TIMEOUT_MS, self._options.delivery_timeout_ms // 2),
            max_block_ms=self._options.bootstrap_timeout_ms,
            max_request_size=self._limits.entry_bytes,
            metrics_enabled=False,
        )

    def _append(self, entry: Entry) -> None:
        for partition in self._partitions if entry.is_marker else [None]:
            self._send(entry.value, entry.headers, entry.key, partition)

    def _send(self, value: bytes | None, headers: Headers, key: bytes | None, partition: int | None) -> None:
        if self._closed:
            raise StreamError(f"the writer of {self._topic!r} is closed; open another")
        if self._unacknowledged >= _MAX_UNACKNOWLEDGED:
            self.flush()
        if self._producer is None:
            self._producer, self._losses = self._build(), _Losses()
        with self._plain_errors(f"writing to {self._topic!r}"):
            sent = self._producer.send(self._topic, value, key=key, headers=list(headers), partition=partition)
        self._unacknowledged += 1
        sent.add_errback(self._losses.note)

    def _wait(self, producer: KafkaProducer) -> bool:
        """Whether everything sent was answered; ends early where something was lost, since the rest is sent again."""
        deadline = time.monotonic() + self._options.delivery_timeout_ms / 1000 + _SLICE_S
        while not self._losses.count and time.monotonic() < deadline:
            with self._plain_errors(f"writing to {self._topic!r}"), suppress(KafkaTimeoutError):
                producer.flush(timeout=_SLICE_S)
                return True
        return False

    def _why(self, error: Exception | None) -> str:
        """What kept records from being accepted, in words."""
        connections = connections_of(self._producer)
        failure = None if connections is None else connections.failure
        if _kind(error) is BrokerUnavailable and failure is not None:
            return no_session(self._options, failure)
        if right := missing_right(error):
            return f"{error}; {right}"
        return str(error or f"no acknowledgement within {self._options.delivery_timeout_ms / 1000:g} s")

    def _plain_errors(self, doing: str) -> AbstractContextManager[None]:
        return plain_errors(self._options, doing, connections_of(self._producer))

    def _give_up(self) -> None:
        """Drop the producer and what it still holds. Its `close` would first wait for those, so it isn't asked."""
        producer, self._producer = self._producer, None
        if producer is not None:
            producer._sender.force_close()
            producer._sender.join(_CLOSE_TIMEOUT_S)
            with suppress(KafkaError):
                producer.close(timeout=0)


def _kind(error: Exception | None) -> type[StreamError]:
    if isinstance(error, _REFUSALS) or _REFUSED_BESIDE in str(error):
        return EntryRefused
    if error is None or isinstance(error, RetriableError | KafkaTimeoutError):
        return BrokerUnavailable
    return StreamError


class _Losses:
    """What one producer failed to deliver. Counted per producer: one that was given up reports its rest later."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self.count = 0
        self.first: Exception | None = None

    def note(self, error: Exception) -> None:
        """Called on the producer's I/O thread."""
        with self._lock:
            self.count += 1
            self.first = self.first or error
