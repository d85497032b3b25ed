"""The Kafka stream: `RecordSource` over kafka-python, and by name what else belongs to it.

Positions belong to the caller (`start_at`), not to the group: committed offsets are advisory. `end_offsets` is not
asked, since not every broker answers it rightly; the lag comes from the high-water marks of what was fetched. The
writing half is `kafka_sink`. It does not know what the bytes mean.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from typing import Any

import kafka
from kafka import ConsumerRebalanceListener, KafkaConsumer, OffsetAndMetadata
from kafka.errors import (
    CommitFailedError,
    IllegalGenerationError,
    IllegalStateError,
    KafkaError,
    RebalanceInProgressError,
    RetriableError,
    UnknownMemberIdError,
)
from kafka.structs import MemberState

from streaming.errors import BrokerUnavailable, StreamError
from streaming.kafka_client import KafkaOptions, build, ensure_topic, plain_errors
from streaming.kafka_sink import KafkaSink
from streaming.source import Envelope, StartAt, TopicPartition, from_committed

__all__ = ["KafkaOptions", "KafkaSink", "KafkaSource", "ensure_topic"]

_COMMIT_MAY_MISS = (
    CommitFailedError,
    IllegalGenerationError,
    RebalanceInProgressError,
    RetriableError,
    UnknownMemberIdError,
)
_COMMIT_TIMEOUT_MS = 5_000
_POSITION_TIMEOUT_MS = 2_000
_CLOSE_TIMEOUT_S = 10.0
_JOIN_SLICE_MS = 500
_FETCH_BYTES = 4 * 1_048_576


class KafkaSource:
    """`RecordSource` over a topic, as a member of `group`, or alone over all partitions where it is None.

    `start_at` is called on the client's I/O thread, during a `poll` or between two: it must be quick and must not use
    the source. A `poll` that meets a rebalance stays for its end, up to `session_timeout_ms` longer than asked.
    Raises BrokerUnavailable without a session, StreamError where the topic is missing.
    """

    def __init__(
        self, options: KafkaOptions, topic: str, *, group: str | None, start_at: StartAt = from_committed
    ) -> None:
        self._options = options
        self._topic = topic
        self._group = group
        self._start_at = start_at
        self._closed = False
        self._lock = threading.Lock()
        self._paused: set[TopicPartition] = set()
        self._floor: dict[TopicPartition, int] = {}
        self._failure: Exception | None = None
        self._consumer = build(
            KafkaConsumer,
            options,
            group_id=group,
            auto_offset_reset="earliest",
            enable_auto_commit=False,
            allow_auto_create_topics=False,
            session_timeout_ms=options.session_timeout_ms,
            heartbeat_interval_ms=max(options.session_timeout_ms // 4, 100),
            max_poll_interval_ms=options.max_poll_interval_ms,
            max_partition_fetch_bytes=_FETCH_BYTES,
            isolation_level="read_committed",
            metrics_enabled=False,
        )
        try:
            self._subscribe()
        except BaseException:
            self.close()
            raise

    def poll(self, timeout_s: float, max_records: int) -> list[Envelope]:
        with plain_errors(self._options, f"polling {self._topic!r}"):
            try:
                batches = self._poll(max(timeout_s, 0.0), max_records)
            except KafkaError:
                self._raise_failure()
                raise
        self._raise_failure()
        found: list[Envelope] = []
        for each, records in batches.items():
            self._check_floor(TopicPartition(*each), records)
            found.extend(_envelope(record) for record in records)
        if not found:
            self._check_ends()
        return found

    def assignment(self) -> frozenset[TopicPartition]:
        return frozenset(TopicPartition(*each) for each in self._consumer.assignment())

    def partitions(self) -> frozenset[TopicPartition]:
        with plain_errors(self._options, f"asking for the partitions of {self._topic!r}"):
            numbers = self._consumer.partitions_for_topic(self._topic)
        return frozenset(TopicPartition(self._topic, number) for number in numbers)

    def positions(self) -> dict[TopicPartition, int]:
        found: dict[TopicPartition, int] = {}
        for each in self.assignment():
            try:
                with plain_errors(self._options, f"asking for the position in {each}"):
                    position = self._consumer.position(_theirs(each), timeout_ms=_POSITION_TIMEOUT_MS)
            except BrokerUnavailable:
                continue  # Not known yet, which is what absence says.
            except StreamError as error:
                if isinstance(error.__cause__, IllegalStateError):
                    continue  # Taken away since the assignment was asked for.
                raise
            if position is not None:
                found[each] = position
        return found

    def lag(self) -> dict[TopicPartition, int]:
        positions = self.positions()
        found: dict[TopicPartition, int] = {}
        for each, position in positions.items():
            try:
                end = self._consumer.highwater(_theirs(each))
            except IllegalStateError:
                continue
            if end is not None:
                found[each] = max(end - position, 0)
        return found

    def pause(self, partitions: Iterable[TopicPartition]) -> None:
        wanted = set(partitions)
        with self._lock:
            self._paused |= wanted
            self._consumer.pause(*(_theirs(each) for each in wanted & self.assignment()))

    def resume(self, partitions: Iterable[TopicPartition]) -> None:
        wanted = set(partitions)
        with self._lock:
            self._paused -= wanted
            self._consumer.resume(*(_theirs(each) for each in wanted & self.assignment()))

    def commit(self, offsets: Mapping[TopicPartition, int]) -> None:
        mine = self.assignment()
        noted = {_theirs(each): OffsetAndMetadata(next_, "", -1) for each, next_ in offsets.items() if each in mine}
        if self._group is None or not noted:
            return
        # Advisory by contract: the offsets that count lie with the caller, and the next commit includes these.
        with plain_errors(self._options, f"committing offsets of group {self._group!r}"), suppress(*_COMMIT_MAY_MISS):
            self._consumer.commit(noted, timeout_ms=_COMMIT_TIMEOUT_MS)

    def close(self) -> None:
        if not self._closed:
            self._closed = True
            with plain_errors(self._options, f"leaving {self._topic!r}"):
                self._consumer.close(autocommit=False, timeout_ms=int(_CLOSE_TIMEOUT_S * 1000))

    def _poll(self, timeout_s: float, max_records: int) -> Mapping[Any, Sequence[Any]]:
        batches: Mapping[Any, Sequence[Any]] = self._consumer.poll(timeout_s * 1000, max_records)
        # kafka-python throws an assignment away that arrives between two polls, and asks the whole group to join again:
        # with short polls a group may go round like that for minutes. So a poll doesn't leave while one is on its way.
        leave_at = time.monotonic() + self._options.session_timeout_ms / 1000
        while not batches and self._is_joining() and time.monotonic() < leave_at:
            batches = self._consumer.poll(_JOIN_SLICE_MS, max_records)
        return batches

    def _is_joining(self) -> bool:
        return self._group is not None and self._consumer.group_metadata().state is MemberState.REBALANCING

    def _subscribe(self) -> None:
        partitions = self.partitions()
        if not partitions:
            raise StreamError(f"no topic {self._topic!r} in {self._options}; create it with ensure_topic")
        if self._group is not None:
            self._consumer.subscribe([self._topic], listener=_Assigned(self))
            return
        self._consumer.assign([_theirs(each) for each in partitions])
        self._begin(partitions)
        self._raise_failure()

    def _begin(self, partitions: Iterable[TopicPartition]) -> None:
        """Seek what was just assigned. In a group this is the I/O thread, so an error is kept for `poll` to raise."""
        try:
            for each in partitions:
                wanted = self._start_at(each)
                self._floor.pop(each, None)
                if wanted is not None:
                    self._consumer.seek(_theirs(each), wanted)
                    self._floor[each] = wanted
            with self._lock:
                self._consumer.pause(*(_theirs(each) for each in self._paused.intersection(partitions)))
        except Exception as error:
            self._failure = error

    def _raise_failure(self) -> None:
        if self._failure is not None:
            raise StreamError(f"beginning to read {self._topic!r} failed: {self._failure}") from self._failure

    def _check_floor(self, each: TopicPartition, records: Sequence[Any]) -> None:
        """An offset below where reading stands means another log than before: the client has started over."""
        floor = self._floor.get(each, 0)
        if records[0].offset < floor:
            raise _lost(each, floor, f"got {records[0].offset}")
        self._floor[each] = records[-1].offset + 1

    def _check_ends(self) -> None:
        """The same, where nothing comes: some brokers let a reader wait behind the end of a log for ever."""
        for each, floor in list(self._floor.items()):
            try:
                end = self._consumer.highwater(_theirs(each))
            except IllegalStateError:
                continue  # No longer assigned; the next assignment sets its floor anew.
            if end is not None and end < floor:
                raise _lost(each, floor, f"the log ends at {end}")


class _Assigned(ConsumerRebalanceListener):  # type: ignore[misc]
    """Lets a source seek at each assignment, before anything of it is fetched."""

    def __init__(self, source: KafkaSource) -> None:
        self._source = source

    def on_partitions_revoked(self, revoked: Iterable[Any]) -> None:
        """Nothing to save: positions lie with the caller."""

    def on_partitions_assigned(self, assigned: Iterable[Any]) -> None:
        self._source._begin([TopicPartition(*each) for each in assigned])


def _lost(each: TopicPartition, floor: int, got: str) -> StreamError:
    return StreamError(
        f"{each}: expected offset {floor} or later, {got}; the topic was recreated or has lost records: restore it, or"
        " start with a new topic and a new home"
    )


def _theirs(each: TopicPartition) -> Any:
    return kafka.TopicPartition(each.topic, each.partition)


def _envelope(record: Any) -> Envelope:
    headers = tuple((name, value or b"") for name, value in record.headers)
    return Envelope(record.topic, record.partition, record.offset, record.key, record.value, headers, record.timestamp)
