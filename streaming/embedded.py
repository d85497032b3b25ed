"""The embedded stream: a durable log of topics and partitions in one SQLite file, for one machine and many processes.

Durability: WAL with `synchronous=FULL`, so a commit is on disk when it returns, power loss included. `NORMAL` would be
durable only after a checkpoint, which any reader can hold up; `FULL` costs one fsync per transaction, and a transaction
holds a whole batch of appends.

Group membership is static: member m of n reads the partitions p with p mod n = m. There is no coordinator, so a
member's partitions wait until it is back. Nothing is ever deleted. It does not know what the bytes mean.
"""

from __future__ import annotations

import sqlite3
import time
import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import msgpack

from streaming.errors import StreamError
from streaming.records import EndOfDomain, TaskRecord
from streaming.source import Envelope, StartAt, TopicPartition, from_committed
from streaming.wire import Headers, encode

# A record's primary key is (log << 40) + offset, where `log` numbers the partitions of the file: one integer, so a
# partition is one contiguous run of the B-tree, and a poll is a range scan without a second index. 2^40 offsets are a
# million records a second for twelve days, in each of 2^23 partitions.
_OFFSET_BITS = 40
_BUSY_S = 30.0
_BATCH_RECORDS = 2_000
_BATCH_BYTES = 4_000_000
_NAP_MIN_S, _NAP_MAX_S = 0.002, 0.05

_SCHEMA = """
CREATE TABLE IF NOT EXISTS partition (
    log INTEGER PRIMARY KEY, topic TEXT NOT NULL, number INTEGER NOT NULL, next_offset INTEGER NOT NULL DEFAULT 0,
    UNIQUE (topic, number));
CREATE TABLE IF NOT EXISTS record (
    place INTEGER PRIMARY KEY, key BLOB, value BLOB, headers BLOB NOT NULL, timestamp_ms INTEGER NOT NULL);
CREATE TABLE IF NOT EXISTS committed (
    consumers TEXT NOT NULL, log INTEGER NOT NULL, next_offset INTEGER NOT NULL,
    PRIMARY KEY (consumers, log)) WITHOUT ROWID;
"""


class LogEntry(NamedTuple):
    """What one append writes: `headers` are the packed pairs."""

    partition: int
    key: bytes | None
    value: bytes | None
    headers: bytes
    timestamp_ms: int


class EmbeddedLog:
    """The file: topics, partitions, records, committed offsets. One object is one connection.

    Several processes may hold the same file open; it must lie on a local disk. One thread uses an object at a time.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            # isolation_level=None: transactions begin where this module says so, not where the driver guesses.
            self._database = sqlite3.connect(path, timeout=_BUSY_S, isolation_level=None, check_same_thread=False)
            self._database.execute("PRAGMA journal_mode=WAL")
            self._database.execute("PRAGMA synchronous=FULL")
            self._database.executescript(f"BEGIN IMMEDIATE; {_SCHEMA} COMMIT;")
        except (sqlite3.Error, OSError) as error:
            raise StreamError(
                f"cannot open the embedded stream {path}: {error}; expected a writable SQLite file on a local disk"
            ) from error

    def ensure_topic(self, topic: str, partitions: int) -> int:
        """Create the topic if it is missing. Returns the number of partitions it has, which stays as it was created:
        a changed number would send a resent record to another partition than its twin."""
        if partitions < 1:
            raise StreamError(f"topic {topic!r} in {self.path}: expected at least 1 partition, got {partitions}")
        with self._writing():
            known = len(self.logs(topic))
            if not known:
                self._database.executemany(
                    "INSERT INTO partition (topic, number) VALUES (?, ?)", [(topic, n) for n in range(partitions)]
                )
        return known or partitions

    def logs(self, topic: str) -> list[int]:
        """The logs of the topic's partitions, by partition number; empty if there is no such topic."""
        return [log for (log,) in self._read("SELECT log FROM partition WHERE topic = ? ORDER BY number", (topic,))]

    def open_topic(self, topic: str) -> list[int]:
        """As `logs`. Raises StreamError if there is no such topic."""
        logs = self.logs(topic)
        if not logs:
            raise StreamError(f"no topic {topic!r} in the embedded stream {self.path}; create it with ensure_topic")
        return logs

    def append(self, logs: Sequence[int], entries: Sequence[LogEntry]) -> None:
        """Append the entries in order, in one durable transaction."""
        with self._writing():
            ends = self.ends(logs)
            rows = []
            for entry in entries:
                log = logs[entry.partition]
                rows.append(((log << _OFFSET_BITS) + ends[log], *entry[1:]))
                ends[log] += 1
            self._database.executemany("INSERT INTO record VALUES (?, ?, ?, ?, ?)", rows)
            self._database.executemany(
                "UPDATE partition SET next_offset = ? WHERE log = ?", [(end, log) for log, end in ends.items()]
            )

    def read(self, log: int, offset: int, limit: int) -> list[tuple[Any, ...]]:
        """Up to `limit` rows (offset, key, value, packed headers, timestamp_ms) of a partition, from `offset` on."""
        low, high = log << _OFFSET_BITS, (log + 1) << _OFFSET_BITS
        return self._read(
            "SELECT place - ?, key, value, headers, timestamp_ms FROM record"
            " WHERE place >= ? AND place < ? ORDER BY place LIMIT ?",
            (low, low + offset, high, limit),
        )

    def ends(self, logs: Sequence[int]) -> dict[int, int]:
        """The next offset of each log."""
        marks = ", ".join("?" * len(logs))
        return dict(self._read(f"SELECT log, next_offset FROM partition WHERE log IN ({marks})", logs))

    def committed(self, group: str, log: int) -> int | None:
        """The group's committed offset of a log."""
        rows = self._read("SELECT next_offset FROM committed WHERE consumers = ? AND log = ?", (group, log))
        return int(rows[0][0]) if rows else None

    def commit(self, group: str, offsets: Mapping[int, int]) -> None:
        """Note the group's next offsets by log."""
        with self._writing():
            self._database.executemany(
                "INSERT OR REPLACE INTO committed VALUES (?, ?, ?)", [(group, *item) for item in offsets.items()]
            )

    def version(self) -> int:
        """Changes whenever another connection has written: cheaper to ask than to search again."""
        return int(self._read("PRAGMA data_version", ())[0][0])

    def close(self) -> None:
        """Close the connection. Twice is fine."""
        self._database.close()

    def _read(self, query: str, values: Sequence[object]) -> list[Any]:
        try:
            return self._database.execute(query, values).fetchall()
        except sqlite3.Error as error:
            raise StreamError(f"cannot read the embedded stream {self.path}: {error}") from error

    @contextmanager
    def _writing(self) -> Iterator[None]:
        try:
            self._database.execute("BEGIN IMMEDIATE")
            try:
                yield
            except BaseException:
                self._database.execute("ROLLBACK")
                raise
            self._database.execute("COMMIT")
        except sqlite3.Error as error:
            if self._database.in_transaction:
                self._database.execute("ROLLBACK")
            raise StreamError(f"cannot write the embedded stream {self.path}: {error}") from error


class EmbeddedSource:
    """`RecordSource` over an embedded log, which it takes over and closes.

    `group` = None reads without noting offsets. Raises StreamError where the topic is missing, or where `start_at` lies
    behind the log's end: the file is then not the one these positions came from.
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
        self._positions = {each: self._start(each, start_at) for each in self._assigned}

    def poll(self, timeout_s: float, max_records: int) -> list[Envelope]:
        deadline = time.monotonic() + timeout_s
        nap_s = _NAP_MIN_S
        while True:
            # Asked before the search: what is written between the two is then not missed but found in the next round.
            version = self._log.version()
            found = self._search(max_records)
            if found:
                return found
            while self._log.version() == version:
                left_s = deadline - time.monotonic()
                if left_s <= 0:
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
        ends = self._log.ends([self._logs[each.partition] for each in self._assigned])
        return {each: ends[self._logs[each.partition]] - self._positions[each] for each in self._assigned}

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

    def _start(self, each: TopicPartition, start_at: StartAt) -> int:
        log = self._logs[each.partition]
        wanted = start_at(each)
        if wanted is None and self._group is not None:
            wanted = self._log.committed(self._group, log)
        end = self._log.ends([log])[log]
        if wanted is not None and not 0 <= wanted <= end:
            raise StreamError(
                f"{each}: asked to start at offset {wanted}, but {self._log.path} ends at {end}; this is not the stream"
                " those positions came from: restore the file, or start with a new home"
            )
        return wanted or 0

    def _search(self, max_records: int) -> list[Envelope]:
        found: list[Envelope] = []
        for each in list(self._assigned):
            if each in self._paused:
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

    Appends wait in memory for `flush` or a full batch. A key's partition is its CRC-32 modulo the number of partitions,
    the same in every process.
    """

    def __init__(self, log: EmbeddedLog, topic: str) -> None:
        self._log = log
        self._logs = log.open_topic(topic)
        self._waiting: list[LogEntry] = []
        self._waiting_bytes = 0
        self._closed = False

    def append(self, record: TaskRecord | EndOfDomain) -> None:
        value, headers = encode(record)
        if isinstance(record, TaskRecord):
            self.append_raw(value, headers, record.id.encode())
            return
        for partition in range(len(self._logs)):
            self._add(partition, None, value, headers)

    def append_raw(self, value: bytes | None, headers: Headers = (), key: bytes | None = None) -> None:
        if value is None and key is None:
            raise StreamError(f"the embedded stream {self._log.path}: expected a value or a key, got neither")
        chosen = zlib.crc32(key if key is not None else value or b"") % len(self._logs)
        self._add(chosen, key, value, headers)

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

    def _add(self, partition: int, key: bytes | None, value: bytes | None, headers: Headers) -> None:
        self._waiting.append(LogEntry(partition, key, value, msgpack.packb(headers), time.time_ns() // 1_000_000))
        self._waiting_bytes += len(value or b"")
        if len(self._waiting) >= _BATCH_RECORDS or self._waiting_bytes >= _BATCH_BYTES:
            self.flush()
