"""A durable waiting room for the examples of domains that are not published yet.

One SQLite file an ingest worker. Rows are keyed by topic, partition and offset, so spooling a record twice is spooling
it once, and the position up to which each partition was spooled is stored in the same transaction. WAL with
`synchronous=NORMAL` suffices: if power fails, the last transactions are lost together with the position that covers
them, and the stream is read again from there.

A row is *open* until its domain closes, then *sealed* under the version that is trained from it, then deleted when that
version is published. The spool knows nothing of features, training or publication.
"""

from __future__ import annotations

import sqlite3
import threading
import time
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from actors.observation import Watermarks
from streaming.source import TopicPartition

_SCHEMA = """
CREATE TABLE IF NOT EXISTS rows (
    topic TEXT NOT NULL, part INTEGER NOT NULL, pos INTEGER NOT NULL,
    domain TEXT NOT NULL, record_id TEXT NOT NULL, held_out INTEGER NOT NULL, body BLOB NOT NULL,
    arrived REAL NOT NULL, sealed INTEGER, tried INTEGER,
    PRIMARY KEY (topic, part, pos)) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS rows_domain ON rows (domain, sealed);
CREATE TABLE IF NOT EXISTS markers (
    topic TEXT NOT NULL, part INTEGER NOT NULL, pos INTEGER NOT NULL, domain TEXT NOT NULL, arrived REAL NOT NULL,
    PRIMARY KEY (topic, part, pos)) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS coverage (
    topic TEXT NOT NULL, part INTEGER NOT NULL, first INTEGER NOT NULL, next INTEGER NOT NULL,
    PRIMARY KEY (topic, part)) WITHOUT ROWID;
"""


@dataclass(frozen=True)
class SpooledRow:
    """One example: where it stood in the stream, what it belongs to, and its record as JSON."""

    partition: TopicPartition
    offset: int
    domain: str
    record_id: str
    held_out: bool
    body: bytes


@dataclass(frozen=True)
class SpooledMarker:
    """An end-of-domain marker and where it stood in the stream."""

    partition: TopicPartition
    offset: int
    domain: str


@dataclass(frozen=True)
class Block:
    """Consecutive rows to observe, and the span of offsets they cover in each partition."""

    rows: tuple[SpooledRow, ...]
    spans: Mapping[TopicPartition, tuple[int, int]]


@dataclass(frozen=True)
class DomainBacklog:
    """What waits of one domain: counts of rows, marker partitions, and the last arrival (Unix seconds)."""

    train: int = 0
    held_out: int = 0
    fresh: int = 0
    """Rows not yet part of a training that was rejected."""
    markers: frozenset[TopicPartition] = frozenset()
    last_arrival: float = 0.0
    sealed: frozenset[int] = frozenset()


@dataclass(frozen=True)
class Seal:
    """The rows sealed for one version: their number, and the watermarks the router must have reached to know them."""

    rows: int
    watermarks: Watermarks = field(default_factory=dict)


class Spool:
    """The spool of one ingest worker, in the file `path`. Safe to use from several threads."""

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self._lock = threading.RLock()
        self._db = sqlite3.connect(path, isolation_level=None, check_same_thread=False, timeout=30)
        self._db.execute("PRAGMA journal_mode=WAL")
        self._db.execute("PRAGMA synchronous=NORMAL")
        self._db.executescript(_SCHEMA)

    def close(self) -> None:
        """Close the file."""
        with self._lock:
            self._db.close()

    def position(self, partition: TopicPartition) -> int | None:
        """Return the next offset to spool, or None when this spool has never covered the partition."""
        with self._lock:
            row = self._db.execute("SELECT next FROM coverage WHERE topic=? AND part=?", partition).fetchone()
        return None if row is None else int(row[0])

    def cover_from(self, partition: TopicPartition, offset: int) -> None:
        """Begin coverage of a partition at `offset`, forgetting an earlier coverage that ended before it."""
        with self._lock:
            self._db.execute(
                "INSERT INTO coverage VALUES (?,?,?,?) ON CONFLICT (topic, part) "
                "DO UPDATE SET first=excluded.first, next=excluded.next WHERE excluded.next > next",
                (*partition, offset, offset),
            )

    def append(
        self,
        rows: Iterable[SpooledRow],
        markers: Iterable[SpooledMarker],
        spans: Mapping[TopicPartition, tuple[int, int]],
    ) -> None:
        """Store rows and markers and extend the coverage by `spans` (start, end), in one transaction.

        What is there already stays.
        """
        now = time.time()
        with self._lock, self._transaction():
            self._db.executemany(
                "INSERT OR IGNORE INTO rows VALUES (?,?,?,?,?,?,?,?,NULL,NULL)",
                [(*r.partition, r.offset, r.domain, r.record_id, int(r.held_out), r.body, now) for r in rows],
            )
            self._db.executemany(
                "INSERT OR IGNORE INTO markers VALUES (?,?,?,?,?)",
                [(*m.partition, m.offset, m.domain, now) for m in markers],
            )
            for partition, span in spans.items():
                self._db.execute(
                    "INSERT INTO coverage VALUES (?,?,?,?) ON CONFLICT (topic, part) "
                    "DO UPDATE SET next=max(next, excluded.next)",
                    (*partition, *span),
                )

    def block(self, watermarks: Watermarks, limit: int) -> Block | None:
        """Return up to `limit` rows the router has not applied, in stream order, or None when it has seen them all."""
        rows: list[SpooledRow] = []
        spans: dict[TopicPartition, tuple[int, int]] = {}
        with self._lock:
            covered = self._db.execute("SELECT topic, part, first, next FROM coverage ORDER BY topic, part").fetchall()
            for topic, part, first, end in covered:
                partition = TopicPartition(topic, part)
                start = watermarks.get(partition, first)
                if start < first or start >= end or len(rows) >= limit:
                    continue
                wanted = limit - len(rows)
                found = [
                    SpooledRow(partition, pos, domain, record_id, bool(held), body)
                    for pos, domain, record_id, held, body in self._db.execute(
                        "SELECT pos, domain, record_id, held_out, body FROM rows "
                        "WHERE topic=? AND part=? AND pos>=? ORDER BY pos LIMIT ?",
                        (topic, part, start, wanted + 1),
                    )
                ]
                if len(found) > wanted:
                    end = found[wanted].offset
                    found = found[:wanted]
                rows.extend(found)
                spans[partition] = (start, end)
        return Block(tuple(rows), spans) if spans else None

    def discard(self, positions: Iterable[tuple[TopicPartition, int]]) -> None:
        """Delete single rows, known to be duplicates."""
        with self._lock, self._transaction():
            self._db.executemany(
                "DELETE FROM rows WHERE topic=? AND part=? AND pos=?", [(*p, offset) for p, offset in positions]
            )

    def backlog(self, watermarks: Watermarks) -> dict[str, DomainBacklog]:
        """Return what waits of each domain, looking only at offsets the router has applied."""
        waiting: dict[str, DomainBacklog] = {}
        with self._lock:
            for domain, version, last in self._db.execute(
                "SELECT domain, sealed, max(arrived) FROM rows GROUP BY domain, sealed"
            ).fetchall():
                entry = waiting.get(domain, DomainBacklog())
                sealed = entry.sealed if version is None else entry.sealed | {version}
                waiting[domain] = replace(entry, last_arrival=max(entry.last_arrival, last), sealed=sealed)
            for partition, offset in watermarks.items():
                for domain, held_out, rows, fresh in self._db.execute(
                    "SELECT domain, sum(held_out), count(*), sum(tried IS NULL) FROM rows "
                    "WHERE topic=? AND part=? AND pos<? AND sealed IS NULL GROUP BY domain",
                    (*partition, offset),
                ).fetchall():
                    entry = waiting[domain]
                    waiting[domain] = replace(
                        entry,
                        train=entry.train + rows - held_out,
                        held_out=entry.held_out + held_out,
                        fresh=entry.fresh + fresh,
                    )
                for domain, last in self._db.execute(
                    "SELECT domain, max(arrived) FROM markers WHERE topic=? AND part=? AND pos<? GROUP BY domain",
                    (*partition, offset),
                ).fetchall():
                    entry = waiting.get(domain, DomainBacklog())
                    waiting[domain] = replace(
                        entry, markers=entry.markers | {partition}, last_arrival=max(entry.last_arrival, last)
                    )
        return waiting

    def seal(self, domain: str, version: int, watermarks: Watermarks) -> Seal:
        """Seal the domain's open, observed rows under `version` and drop its observed markers; repeatable."""
        with self._lock, self._transaction():
            for partition, offset in watermarks.items():
                self._db.execute(
                    "UPDATE rows SET sealed=? WHERE domain=? AND sealed IS NULL AND topic=? AND part=? AND pos<?",
                    (version, domain, *partition, offset),
                )
            self._drop_markers(domain, watermarks)
        return self.seal_of(domain, version)

    def seal_of(self, domain: str, version: int) -> Seal:
        """Return what is sealed under a version."""
        with self._lock:
            needed = self._db.execute(
                "SELECT topic, part, max(pos)+1, count(*) FROM rows WHERE domain=? AND sealed=? GROUP BY topic, part",
                (domain, version),
            ).fetchall()
        return Seal(
            sum(count for *_, count in needed), {TopicPartition(topic, part): end for topic, part, end, _ in needed}
        )

    def sealed(self, domain: str, version: int) -> Sequence[SpooledRow]:
        """Return the rows sealed under a version."""
        with self._lock:
            found = self._db.execute(
                "SELECT topic, part, pos, domain, record_id, held_out, body FROM rows WHERE domain=? AND sealed=?",
                (domain, version),
            ).fetchall()
        return [SpooledRow(TopicPartition(t, p), pos, d, i, bool(h), b) for t, p, pos, d, i, h, b in found]

    def release(self, domain: str, version: int) -> int:
        """Delete the rows sealed under a published version; returns their number."""
        with self._lock:
            return self._db.execute("DELETE FROM rows WHERE domain=? AND sealed=?", (domain, version)).rowcount

    def reopen(self, domain: str, version: int) -> None:
        """Open the rows of a rejected version again: they join the next training of the domain."""
        with self._lock:
            self._db.execute(
                "UPDATE rows SET sealed=NULL, tried=? WHERE domain=? AND sealed=?", (version, domain, version)
            )

    def forget(self, domain: str) -> int:
        """Delete everything of a domain; returns the number of rows deleted."""
        with self._lock, self._transaction():
            self._db.execute("DELETE FROM markers WHERE domain=?", (domain,))
            return self._db.execute("DELETE FROM rows WHERE domain=?", (domain,)).rowcount

    def drop_markers(self, domain: str, watermarks: Watermarks) -> None:
        """Drop the observed markers of a domain that has nothing to train on."""
        with self._lock, self._transaction():
            self._drop_markers(domain, watermarks)

    def size(self) -> int:
        """Return the number of rows held."""
        with self._lock:
            return int(self._db.execute("SELECT count(*) FROM rows").fetchone()[0])

    def prompts(self, limit: int) -> Collection[SpooledRow]:
        """Return the first rows in stream order, up to `limit`."""
        with self._lock:
            found = self._db.execute(
                "SELECT topic, part, pos, domain, record_id, held_out, body FROM rows "
                "ORDER BY pos, topic, part LIMIT ?",
                (limit,),
            ).fetchall()
        return [SpooledRow(TopicPartition(t, p), pos, d, i, bool(h), b) for t, p, pos, d, i, h, b in found]

    def has_markers(self) -> bool:
        """Tell whether any marker waits."""
        with self._lock:
            return self._db.execute("SELECT 1 FROM markers LIMIT 1").fetchone() is not None

    def _drop_markers(self, domain: str, watermarks: Watermarks) -> None:
        for partition, offset in watermarks.items():
            self._db.execute(
                "DELETE FROM markers WHERE domain=? AND topic=? AND part=? AND pos<?", (domain, *partition, offset)
            )

    def _transaction(self) -> _Transaction:
        return _Transaction(self._db)


class _Transaction:
    """BEGIN IMMEDIATE ... COMMIT, or ROLLBACK when the body raises."""

    def __init__(self, db: sqlite3.Connection) -> None:
        self._db = db

    def __enter__(self) -> None:
        self._db.execute("BEGIN IMMEDIATE")

    def __exit__(self, kind: object, *_: object) -> None:
        self._db.execute("COMMIT" if kind is None else "ROLLBACK")
