"""The embedded stream: `RecordSource` and `RecordSink` over a log in one file (`embedded_log`).

Group membership is static: member m of n reads the partitions p with p mod n = m. There is no coordinator, so a
member's partitions wait until it is back. It does not know what the bytes mean.
"""

from __future__ import annotations

import time
import zlib
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress

import msgpack

from streaming.beginnings import Beginnings
from streaming.embedded_log import EmbeddedLog, LogEntry
from streaming.entries import Entry, EntryLimits
from streaming.errors import EntryRefused, LogReplaced, StreamError
from streaming.records import EndOfDomain, TaskRecord
from streaming.source import Envelope, StartAt, TopicPartition, check_identity, from_committed
from streaming.wire import Headers

_BATCH_RECORDS = 2_000
_BATCH_BYTES = 4_000_000
_NAP_MIN_S, _NAP_MAX_S = 0.002, 0.05


class EmbeddedSource:
    """`RecordSource` over an embedded log, which it takes over and closes.

    `group` = None reads without noting offsets. Raises StreamError where the topic is missing, LogReplaced where it is
    not `expected_identity`. A `start_at` behind the log's end is LogReplaced too, at `poll`: the file is then not the
    one these positions came from.
    """

    def __init__(
        self,
        log: EmbeddedLog,
        topic: str,
        *,
        group: str | None,
        start_at: StartAt = from_committed,
        member: int = 0,
        members: int = 1,
        expected_identity: str | None = None,
    ) -> None:
        if not 0 <= member < members:
            raise StreamError(f"topic {topic!r}: expected 0 <= member < members, got member {member} of {members}")
        self._log = log
        self._topic = topic
        self._group = group
        self._logs = log.open_topic(topic)
        self._assigned = [
            TopicPartition(topic, number) for number in range(len(self._logs)) if number % members == member
        ]
        self._paused: set[TopicPartition] = set()
        self._positions: dict[TopicPartition, int] = {}
        self._identity = log.identity(topic)
        check_identity(f"topic {topic!r} of {log.path}", self._identity, expected_identity)
        self._beginnings = Beginnings(start_at)
        self._beginnings.add(self._assigned)
        # Suppressed: where the caller can't say yet, `poll` asks again.
        with suppress(StreamError):
            self._beginnings.settle(self._place)

    def identity(self) -> str | None:
        return self._identity

    def poll(self, timeout_s: float, max_records: int) -> list[Envelope]:
        deadline = time.monotonic() + timeout_s
        nap_s = _NAP_MIN_S
        self._log.check_place()
        check_identity(f"topic {self._topic!r} of {self._log.path}", self._log.identity(self._topic), self._identity)
        self._beginnings.settle(self._place)
        while True:
            # Asked before the search: what is written between the two is then not missed but found in the next round.
            version = self._log.version()
            found = self._search(max_records)
            if found:
                return found
            while self._log.version() == version:
                left_s = deadline - time.monotonic()
                if left_s <= 0:
                    self._beginnings.raise_failure()
                    return []
                time.sleep(min(nap_s, left_s))
                nap_s = min(2 * nap_s, _NAP_MAX_S)

    def assignment(self) -> frozenset[TopicPartition]:
        return frozenset(self._assigned)

    def partitions(self) -> frozenset[TopicPartition]:
        return frozenset(TopicPartition(self._topic, number) for number in range(len(self._logs)))

    def positions(self) -> dict[TopicPartition, int]:
        return dict(self._positions)

    def lag(self) -> dict[TopicPartition, int]:
        ends = self._log.ends([self._logs[each.partition] for each in self._positions])
        return {each: ends[self._logs[each.partition]] - position for each, position in self._positions.items()}

    def bounds(self, partition: TopicPartition) -> tuple[int, int]:
        return self._log.bounds(self._logs[partition.partition])

    def pause(self, partitions: Iterable[TopicPartition]) -> None:
        self._paused.update(partitions)

    def resume(self, partitions: Iterable[TopicPartition]) -> None:
        self._paused.difference_update(partitions)

    def commit(self, offsets: Mapping[TopicPartition, int]) -> None:
        noted = {self._logs[each.partition]: next_ for each, next_ in offsets.items() if each in self._positions}
        if self._group is not None and noted:
            self._log.commit(self._group, noted)

    def close(self) -> None:
        self._log.close()

    def _place(self, each: TopicPartition, wanted: int | None) -> None:
        log = self._logs[each.partition]
        if wanted is None and self._group is not None:
            wanted = self._log.committed(self._group, log)
        end = self._log.ends([log])[log]
        if wanted is not None and not 0 <= wanted <= end:
            raise LogReplaced(
                f"{each}: asked to start at offset {wanted}, but {self._log.path} ends at {end}; this is not the stream"
                " those positions came from: restore the file, or start with a new home"
            )
        self._positions[each] = wanted or 0

    def _search(self, max_records: int) -> list[Envelope]:
        found: list[Envelope] = []
        for each in list(self._assigned):
            if each in self._paused or each not in self._positions:
                continue
            rows = self._log.read(self._logs[each.partition], self._positions[each], max_records - len(found))
            for offset, key, value, packed, timestamp_ms in rows:
                headers = tuple((name, data) for name, data in msgpack.unpackb(packed))
                found.append(Envelope(each.topic, each.partition, offset, key, value, headers, timestamp_ms))
            if rows:
                self._positions[each] = rows[-1][0] + 1
                # Whoever was served goes to the back: a full partition doesn't starve the others.
                self._assigned.remove(each)
                self._assigned.append(each)
            if len(found) >= max_records:
                break
        return found


class EmbeddedSink:
    """`RecordSink` over an embedded log, which it takes over and closes. Raises StreamError where the topic is missing.

    Appends wait in memory for `flush` or a full batch; those of one `append_all` are one transaction. A key's partition
    is its CRC-32 modulo the number of partitions, the same in every process.
    """

    def __init__(self, log: EmbeddedLog, topic: str, *, max_value_bytes: int | None = None) -> None:
        self._log = log
        self._topic = topic
        self._logs = log.open_topic(topic)
        self._limits = EntryLimits(value_bytes=max_value_bytes)
        self._waiting: list[LogEntry] = []
        self._waiting_bytes = 0
        self._closed = False

    @property
    def limits(self) -> EntryLimits:
        return self._limits

    def append(self, record: TaskRecord | EndOfDomain) -> None:
        for entry in self._placed(self._limits.encode(record)):
            self._add(entry)

    def append_raw(self, value: bytes | None, headers: Headers = (), key: bytes | None = None) -> None:
        try:
            self._limits.check(value, headers, key)
        except EntryRefused as error:
            raise type(error)(f"writing to {self._topic!r} of {self._log.path}: {error}") from None
        self._add(self._entry(self._partition(value, key), key, value, headers))

    def append_all(self, records: Sequence[TaskRecord | EndOfDomain]) -> None:
        entries = [placed for entry in self._limits.encode_all(records) for placed in self._placed(entry)]
        self.flush()
        if entries:
            self._log.append(self._logs, entries)

    def flush(self) -> None:
        if self._waiting:
            entries, self._waiting, self._waiting_bytes = self._waiting, [], 0
            self._log.append(self._logs, entries)

    def close(self) -> None:
        if not self._closed:
            self._closed = True
            try:
                self.flush()
            finally:
                self._log.close()

    def _placed(self, entry: Entry) -> list[LogEntry]:
        """A record's entry in its partition, a marker's in each."""
        numbers = range(len(self._logs)) if entry.is_marker else [self._partition(entry.value, entry.key)]
        return [self._entry(number, entry.key, entry.value, entry.headers) for number in numbers]

    def _partition(self, value: bytes | None, key: bytes | None) -> int:
        return zlib.crc32(key if key is not None else value or b"") % len(self._logs)

    def _entry(self, partition: int, key: bytes | None, value: bytes | None, headers: Headers) -> LogEntry:
        return LogEntry(partition, key, value, msgpack.packb(headers), time.time_ns() // 1_000_000)

    def _add(self, entry: LogEntry) -> None:
        self._waiting.append(entry)
        self._waiting_bytes += len(entry.value or b"")
        if len(self._waiting) >= _BATCH_RECORDS or self._waiting_bytes >= _BATCH_BYTES:
            self.flush()
