"""The embedded stream's file: a durable log of topics and partitions in SQLite, for one machine and many processes.

Durability: WAL with `synchronous=FULL`, so a commit is on disk when it returns, power loss included. `NORMAL` would be
durable only after a checkpoint, which any reader can hold up; `FULL` costs one fsync per transaction, and a transaction
holds a whole batch of appends.

Nothing is ever deleted. It does not know what the bytes mean, nor who reads which partition (`embedded`).
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from streaming.errors import LogReplaced, StreamError

# A record's primary key is (log << 40) + offset, where `log` numbers the partitions of the file: one integer, so a
# partition is one contiguous run of the B-tree, and a poll is a range scan without a second index. 2^40 offsets are a
# million records a second for twelve days, in each of 2^23 partitions.
_OFFSET_BITS = 40
BUSY_S = 30.0

_SCHEMA = """
CREATE TABLE IF NOT EXISTS partition (
    log INTEGER PRIMARY KEY, topic TEXT NOT NULL, number INTEGER NOT NULL, next_offset INTEGER NOT NULL DEFAULT 0,
    UNIQUE (topic, number));
CREATE TABLE IF NOT EXISTS record (
    place INTEGER PRIMARY KEY, key BLOB, value BLOB, headers BLOB NOT NULL, timestamp_ms INTEGER NOT NULL);
CREATE TABLE IF NOT EXISTS committed (
    consumers TEXT NOT NULL, log INTEGER NOT NULL, next_offset INTEGER NOT NULL,
    PRIMARY KEY (consumers, log)) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS identity (topic TEXT PRIMARY KEY, name TEXT NOT NULL) WITHOUT ROWID;
"""

# At each opening too: a file that was written without identities gets them once, and keeps them.
_IDENTIFY = """
INSERT OR IGNORE INTO identity SELECT topic, lower(hex(randomblob(16))) FROM partition GROUP BY topic;
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

    def __init__(self, path: Path, *, busy_s: float = BUSY_S) -> None:
        """Open the file, made if missing; `busy_s`: how long another's transaction is waited for, in seconds."""
        self.path = path
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            # isolation_level=None: transactions begin where this module says so, not where the driver guesses.
            self._database = sqlite3.connect(path, timeout=busy_s, isolation_level=None, check_same_thread=False)
            self._database.execute("PRAGMA journal_mode=WAL")
            self._database.execute("PRAGMA synchronous=FULL")
            self._database.executescript(f"BEGIN IMMEDIATE; {_SCHEMA} {_IDENTIFY} COMMIT;")
            self._inode = self._inode_at_path()
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
                self._database.execute(_IDENTIFY)
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

    def identity(self, topic: str) -> str | None:
        """The random name that the topic was given when it was created; None if there is no such topic."""
        rows = self._read("SELECT name FROM identity WHERE topic = ?", (topic,))
        return str(rows[0][0]) if rows else None

    def check_place(self) -> None:
        """Raise LogReplaced unless the path still leads to the file that is open: one that was deleted or moved goes on
        working for those who have it open, and nobody else ever sees what they write."""
        if self._inode_at_path() != self._inode:
            raise LogReplaced(
                f"the embedded stream {self.path} was deleted or replaced while it was open; put the file back and"
                " start again, or start with a new home"
            )

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

    def bounds(self, log: int) -> tuple[int, int]:
        """The first offset that a partition holds a record of, and its next offset; that twice where it holds none."""
        low, high = log << _OFFSET_BITS, (log + 1) << _OFFSET_BITS
        # Asked first: what is written between the two then lies behind this end.
        end = self.ends([log])[log]
        ((place,),) = self._read("SELECT min(place) FROM record WHERE place >= ? AND place < ?", (low, high))
        return (end if place is None else int(place) - low), end

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

    def _inode_at_path(self) -> tuple[int, int] | None:
        try:
            found = self.path.stat()
        except FileNotFoundError:
            return None
        return (found.st_dev, found.st_ino)

    def _read(self, query: str, values: Sequence[object]) -> list[Any]:
        try:
            return self._database.execute(query, values).fetchall()
        except sqlite3.Error as error:
            raise StreamError(f"cannot read the embedded stream {self.path}: {error}") from error

    @contextmanager
    def _writing(self) -> Iterator[None]:
        self.check_place()
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
