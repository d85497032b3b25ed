"""The Kafka stream: `RecordSource` over kafka-python, and by name what else belongs to it.

Positions belong to the caller (`start_at`), not to the group: committed offsets are advisory. The lag comes from the
high-water marks of what was fetched; `end_offsets` costs a call and says less of a log with open transactions. Nothing
is returned before the topic's identity was asked for once more, after the fetch: a name may come to stand for another
log at any time, and offsets alone don't tell. The writing half is `kafka_sink`. It does not know what the bytes mean.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping, Sequence
from contextlib import AbstractContextManager, suppress
from itertools import groupby, pairwise
from operator import itemgetter
from typing import Any

import kafka
from kafka import ConsumerRebalanceListener, KafkaConsumer, OffsetAndMetadata
from kafka.errors import (
    CommitFailedError,
    IllegalGenerationError,
    IllegalStateError,
    RebalanceInProgressError,
    RetriableError,
    UnknownMemberIdError,
)

from streaming.beginnings import Beginnings
from streaming.errors import BrokerUnavailable, LogReplaced, StreamError
from streaming.kafka_client import build, connections_of, ensure_topic
from streaming.kafka_options import KafkaOptions
from streaming.kafka_sink import KafkaSink
from streaming.kafka_topic import KafkaTopic
from streaming.kafka_trouble import plain_errors
from streaming.source import Envelope, StartAt, TopicPartition, check_identity, from_committed
from streaming.wire import Headers

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
_SLICE_S = 0.5
_HELD_NAP_S = 0.2
_IDENTIFY_EVERY_S = 5.0
_FETCH_BYTES = 4 * 1_048_576


class KafkaSource:
    """`RecordSource` over a topic, as a member of `group`, or alone over all partitions where it is None.

    A `poll` that meets a rebalance stays for its end, up to `session_timeout_ms` longer than asked. `start_at` is asked
    there too, between two looks at the broker, while heartbeats go on: a slow answer costs no membership before
    `max_poll_interval_ms`. Raises BrokerUnavailable without a session, StreamError where the topic is missing,
    LogReplaced where it is not `expected_identity`.
    """

    def __init__(
        self,
        options: KafkaOptions,
        topic: str,
        *,
        group: str | None,
        start_at: StartAt = from_committed,
        expected_identity: str | None = None,
    ) -> None:
        self._options = options
        self._topic = topic
        self._group = group
        self._closed = False
        self._beginnings = Beginnings(start_at)
        self._paused: set[TopicPartition] = set()
        self._floor: dict[TopicPartition, int] = {}
        self._held: list[Envelope] = []
        self._replaced: LogReplaced | None = None
        self._identify_at = 0.0
        self._described = KafkaTopic(options, topic)
        try:
            self._identity = self._described.identity()
            check_identity(self._where, self._identity, expected_identity)
            self._consumer: Any = self._build()
        except BaseException:
            self._described.close()
            raise
        try:
            self._subscribe()
        except BaseException:
            self.close()
            raise

    def identity(self) -> str | None:
        return self._identity

    def poll(self, timeout_s: float, max_records: int) -> list[Envelope]:
        if self._replaced is not None:
            raise self._replaced.with_traceback(None)
        try:
            return self._checked_poll(max(timeout_s, 0.0), max_records)
        except LogReplaced as error:
            self._replaced = error
            raise

    def assignment(self) -> frozenset[TopicPartition]:
        return frozenset(TopicPartition(*each) for each in self._consumer.assignment())

    def partitions(self) -> frozenset[TopicPartition]:
        with self._plain_errors(f"asking for the partitions of {self._topic!r}"):
            numbers = self._consumer.partitions_for_topic(self._topic)
        return frozenset(TopicPartition(self._topic, number) for number in numbers)

    def positions(self) -> dict[TopicPartition, int]:
        found: dict[TopicPartition, int] = {}
        for each in self.assignment() - self._beginnings.waiting():
            try:
                with self._plain_errors(f"asking for the position in {each}"):
                    position = self._consumer.position(_theirs(each), timeout_ms=_POSITION_TIMEOUT_MS)
            except BrokerUnavailable:
                continue  # Not known yet, which is what absence says.
            except StreamError as error:
                if isinstance(error.__cause__, IllegalStateError):
                    continue  # Taken away since the assignment was asked for.
                raise
            if position is not None:
                found[each] = position
        for envelope in reversed(self._held):
            if envelope.topic_partition in found:
                found[envelope.topic_partition] = envelope.offset
        return found

    def lag(self) -> dict[TopicPartition, int]:
        positions = self.positions()
        found: dict[TopicPartition, int] = {}
        for each, position in positions.items():
            end = self._seen_end(each)
            if end is not None:
                found[each] = max(end - position, 0)
        return found

    def bounds(self, partition: TopicPartition) -> tuple[int, int]:
        """The end is the last stable offset, as the broker gives it to readers of what is committed, or the high-water
        mark of the last fetch where that is further: behind a transaction that is open, only what was seen by a fetch
        counts. Tansu's own answer falls short by all but the first record of the last batch."""
        each = _theirs(partition)
        with self._plain_errors(f"asking where {partition} begins and ends"):
            begins = self._consumer.beginning_offsets([each], timeout_ms=_POSITION_TIMEOUT_MS)
            ends = self._consumer.end_offsets([each], timeout_ms=_POSITION_TIMEOUT_MS)
        return int(begins[each]), max(int(ends[each]), self._seen_end(partition) or 0)

    def pause(self, partitions: Iterable[TopicPartition]) -> None:
        wanted = set(partitions)
        self._paused |= wanted
        self._consumer.pause(*(_theirs(each) for each in wanted & self.assignment()))

    def resume(self, partitions: Iterable[TopicPartition]) -> None:
        wanted = set(partitions)
        self._paused -= wanted
        ready = (wanted & self.assignment()) - self._beginnings.waiting()
        self._consumer.resume(*(_theirs(each) for each in ready))

    def commit(self, offsets: Mapping[TopicPartition, int]) -> None:
        mine = self.assignment()
        noted = {_theirs(each): OffsetAndMetadata(next_, "", -1) for each, next_ in offsets.items() if each in mine}
        if self._group is None or not noted:
            return
        # Advisory by contract: the offsets that count lie with the caller, and the next commit includes these.
        with self._plain_errors(f"committing offsets of group {self._group!r}"), suppress(*_COMMIT_MAY_MISS):
            self._consumer.commit(noted, timeout_ms=_COMMIT_TIMEOUT_MS)

    def close(self) -> None:
        if not self._closed:
            self._closed = True
            self._described.close()
            with self._plain_errors(f"leaving {self._topic!r}"):
                self._consumer.close(autocommit=False, timeout_ms=int(_CLOSE_TIMEOUT_S * 1000))

    @property
    def _where(self) -> str:
        return f"topic {self._topic!r} in {self._options}"

    def _plain_errors(self, doing: str) -> AbstractContextManager[None]:
        return plain_errors(self._options, doing, connections_of(self._consumer))

    def _build(self) -> Any:
        options = self._options
        return build(
            KafkaConsumer,
            options,
            group_id=self._group,
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

    def _subscribe(self) -> None:
        if self._group is not None:
            self._consumer.subscribe([self._topic], listener=_Assigned(self))
            return
        partitions = [TopicPartition(self._topic, number) for number in self._described.partitions]
        self._consumer.assign([_theirs(each) for each in partitions])
        self._hold(partitions)

    def _hold(self, assigned: Sequence[TopicPartition]) -> None:
        """Fetch nothing of what was just assigned until it is placed. In a group this is the client's I/O thread, which
        sends the heartbeats: nobody may be asked anything here."""
        self._beginnings.add(assigned, lambda: self._consumer.pause(*(_theirs(each) for each in assigned)))

    def _place(self, each: TopicPartition, wanted: int | None) -> None:
        self._held = [envelope for envelope in self._held if envelope.topic_partition != each]
        self._floor.pop(each, None)
        # Suppressed: taken away again, with no assignment in its place yet.
        with suppress(IllegalStateError):
            if wanted is not None:
                self._consumer.seek(_theirs(each), wanted)
                self._floor[each] = wanted
            if each not in self._paused:
                self._consumer.resume(_theirs(each))

    def _checked_poll(self, timeout_s: float, max_records: int) -> list[Envelope]:
        self._beginnings.settle(self._place)
        if not self._held:
            with self._plain_errors(f"polling {self._topic!r}"):
                self._held = self._fetch(timeout_s, max_records)
        if not self._held:
            self._identify_if_due()
            self._check_ends()
            self._beginnings.raise_failure()
            return []
        if not self._is_identified():
            # The broker doesn't answer: what was fetched waits until it says that it came from the same log.
            time.sleep(min(timeout_s, _HELD_NAP_S))
            return []
        found, self._held = self._held[:max_records], self._held[max_records:]
        self._check_floors(found)
        return found

    def _fetch(self, timeout_s: float, max_records: int) -> list[Envelope]:
        batches = self._poll(timeout_s, max_records)
        return [envelope for records in batches.values() for envelope in _envelopes(records)]

    def _poll(self, timeout_s: float, max_records: int) -> Mapping[Any, Sequence[Any]]:
        leave_at = time.monotonic() + timeout_s
        # kafka-python throws an assignment away that arrives between two polls, and asks the whole group to join again:
        # with short polls a group may go round like that for minutes. So a poll doesn't leave while one is on its way.
        leave_joining_at = leave_at + self._options.session_timeout_ms / 1000
        left_s = timeout_s
        while True:
            self._finish_joining()
            batches = self._consumer.poll(min(left_s, _SLICE_S) * 1000, max_records)
            # Of a partition that is not placed, whatever came was fetched from nowhere in particular.
            waiting = self._beginnings.waiting()
            ready = {each: records for each, records in batches.items() if TopicPartition(*each) not in waiting}
            if ready:
                return ready
            self._beginnings.settle(self._place)
            now = time.monotonic()
            left_s = leave_at - now
            if left_s <= 0:
                if not self._is_joining() or now >= leave_joining_at:
                    return {}
                left_s = _SLICE_S

    def _is_joining(self) -> bool:
        """Whether a join has begun whose end no poll has seen. The state that kafka-python publishes doesn't tell: it
        is stable until the request is sent, and unjoined between the two that a new member sends."""
        return self._group is not None and bool(self._consumer._coordinator.rejoining)

    def _finish_joining(self) -> None:
        """Have the next poll look after a join that has begun. kafka-python does so only while a reason to join lasts,
        and one of them, that the topic's metadata have changed, is gone as soon as this member as the leader has shared
        out the partitions. If the poll that began the join is over by then, nobody takes the assignment: the member
        reads nothing and sends no heartbeat, is put out of its group and doesn't hear of it."""
        if self._is_joining():
            self._consumer._coordinator.request_rejoin()

    def _is_identified(self) -> bool:
        """Whether the broker says that the topic is the one that was opened. Raises LogReplaced if it is another."""
        if self._identity is None:
            return True
        try:
            found = self._described.identity()
        except BrokerUnavailable:
            return False
        check_identity(self._where, found, self._identity)
        self._identify_at = time.monotonic() + _IDENTIFY_EVERY_S
        return found is not None

    def _identify_if_due(self) -> None:
        if time.monotonic() >= self._identify_at:
            self._identify_at = time.monotonic() + _IDENTIFY_EVERY_S
            self._is_identified()

    def _check_floors(self, envelopes: Sequence[Envelope]) -> None:
        """An offset below where reading stands means another log than before: the client has started over."""
        for number, some in groupby(envelopes, itemgetter(1)):
            each, offsets = TopicPartition(self._topic, number), [envelope.offset for envelope in some]
            for before, offset in pairwise([self._floor.get(each, 0) - 1, *offsets]):
                if offset <= before:
                    raise _lost(each, before + 1, f"got {offset}")
            self._floor[each] = offsets[-1] + 1

    def _seen_end(self, partition: TopicPartition) -> int | None:
        """The high-water mark of the last fetch; None before the first one, and of a partition not assigned."""
        try:
            end = self._consumer.highwater(_theirs(partition))
        except IllegalStateError:
            return None
        return None if end is None else int(end)

    def _check_ends(self) -> None:
        """The same, where nothing comes: some brokers let a reader wait behind the end of a log for ever."""
        waiting = self._beginnings.waiting()
        for each, floor in list(self._floor.items()):
            end = self._seen_end(each)
            if end is not None and end < floor and each not in waiting:
                raise _lost(each, floor, f"the log ends at {end}")


class _Assigned(ConsumerRebalanceListener):  # type: ignore[misc]
    """Lets a source hold back each assignment before anything of it is fetched."""

    def __init__(self, source: KafkaSource) -> None:
        self._source = source

    def on_partitions_revoked(self, revoked: Iterable[Any]) -> None:
        """Nothing to save: positions lie with the caller."""

    def on_partitions_assigned(self, assigned: Iterable[Any]) -> None:
        self._source._hold([TopicPartition(*each) for each in assigned])


def _lost(each: TopicPartition, floor: int, got: str) -> LogReplaced:
    return LogReplaced(
        f"{each}: expected offset {floor} or later, {got}; the topic was recreated or has lost records: restore it, or"
        " start with a new topic and a new home"
    )


def _theirs(each: TopicPartition) -> Any:
    return kafka.TopicPartition(each.topic, each.partition)


def named(headers: Iterable[tuple[str, bytes | None]] | None) -> Headers:
    """Headers as an envelope has them: one without a value has an empty one."""
    return tuple([(name, value or b"") for name, value in headers]) if headers else ()


def _envelopes(records: Iterable[Any]) -> list[Envelope]:
    found = []
    raw: Any = None
    headers: Headers = ()
    for topic, number, _, offset, timestamp, _, key, value, written, *_ in records:
        if written != raw:  # Mostly they are those of the record before.
            raw, headers = written, named(written)
        found.append(Envelope(topic, number, offset, key, value, headers, timestamp))
    return found
