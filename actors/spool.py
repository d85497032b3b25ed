"""A durable waiting room for the examples of domains that are not published yet.

One SQLite file an ingest worker. Rows are keyed by topic, partition and offset, so spooling a record twice is spooling
it once, and the offsets that were covered are stored in the same transaction. A transaction is on disk when it returns
(`synchronous=FULL`): the registry's snapshots speak of rows that must then still be here, and a seal must not be
forgotten once its adapter is kept. The file is locked to this process, which also spares WAL its shared memory.

Coverage is a set of intervals: a partition that went to another worker and came back leaves a hole between what was
read before and after. What lies in a hole is the other worker's to supply.

A row is *open* until its domain closes, then *sealed* under the version that is trained from it, then deleted when
that version is published. It holds the prompt as it was rendered when it came, and that text is featured and trained
on: a file whose rows were rendered by another template is refused. The spool knows nothing of features, training or
publication.
"""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from actors.backlog import DomainBacklog
from actors.errors import OtherHome
from actors.observation import Watermarks
from actors.spool_formats import FORMAT, check_formats
from streaming.source import TopicPartition

_SCHEMA = """
CREATE TABLE IF NOT EXISTS rows (
    topic TEXT NOT NULL, part INTEGER NOT NULL, pos INTEGER NOT NULL,
    domain TEXT NOT NULL, record_id TEXT NOT NULL, held_out INTEGER NOT NULL, prompt TEXT NOT NULL,
    completion TEXT NOT NULL, sealed INTEGER, tried INTEGER,
    PRIMARY KEY (topic, part, pos)) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS rows_stage ON rows (domain, sealed, tried, held_out);
CREATE TABLE IF NOT EXISTS markers (
    topic TEXT NOT NULL, part INTEGER NOT NULL, pos INTEGER NOT NULL, domain TEXT NOT NULL,
    PRIMARY KEY (topic, part, pos)) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS coverage (
    topic TEXT NOT NULL, part INTEGER NOT NULL, first INTEGER NOT NULL, next INTEGER NOT NULL,
    PRIMARY KEY (topic, part, first)) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS seals (
    domain TEXT NOT NULL, version INTEGER NOT NULL, topic TEXT NOT NULL, part INTEGER NOT NULL, next INTEGER NOT NULL,
    PRIMARY KEY (domain, version, topic, part)) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS facts (name TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;
"""
_ROW = "topic, part, pos, domain, record_id, held_out, prompt, completion"


@dataclass(frozen=True)
class SpooledRow:
    """One example: where it stood in the stream, what it belongs to, and its texts."""

    partition: TopicPartition
    offset: int
    domain: str
    record_id: str
    held_out: bool
    prompt: str
    """As the template rendered it."""
    completion: str


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
class Seal:
    """The rows sealed for one version: their number, and the watermarks up to which they were sealed.

    The watermarks are kept with the seal: it is complete once every spool has sealed up to the highest ones of all.
    """

    rows: int
    watermarks: Watermarks = field(default_factory=dict)


class Spool:
    """The spool of one ingest worker, in the file `path`. Safe to use from several threads.

    Raises `OtherHome` when rows wait, here or in a spool beside it, that an earlier version wrote otherwise.
    """

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        check_formats(path)
        self._path = path
        self._lock = threading.RLock()
        self._db = sqlite3.connect(path, isolation_level=None, check_same_thread=False, timeout=30)
        self._db.execute("PRAGMA locking_mode=EXCLUSIVE")
        self._db.execute("PRAGMA journal_mode=WAL")
        self._db.execute("PRAGMA synchronous=FULL")
        try:
            self._open()
        except BaseException:
            self._db.close()
            raise

    def _open(self) -> None:
        (written,) = self._db.execute("PRAGMA user_version").fetchone()
        upgrade = ""
        if written < FORMAT and self._db.execute("SELECT 1 FROM sqlite_master WHERE name='rows'").fetchone():
            self._refuse_rows("in the format of an earlier version; let that version publish or remove their domains")
            upgrade = "DROP TABLE rows; ALTER TABLE markers DROP COLUMN arrived;"
        self._db.executescript(f"BEGIN; {upgrade} {_SCHEMA} PRAGMA user_version={FORMAT}; COMMIT;")

    def check_template(self, digest: str) -> None:
        """Raise `OtherHome` when rows wait that were rendered by another template than the one of this digest."""
        if self.fact("template") != digest:
            self._refuse_rows(
                "rendered by another prompt template; set base.chat_template, base.terminator and the tokenizer back "
                "until their domains are published"
            )
            self.note("template", digest)

    def _refuse_rows(self, why: str) -> None:
        if rows := self.size():
            raise OtherHome(f"spool {self._path.name}: holds {rows} examples {why}, or begin a new home folder")

    def fact(self, name: str) -> str | None:
        """Return what was noted under a name, or None."""
        with self._lock:
            row = self._db.execute("SELECT value FROM facts WHERE name=?", (name,)).fetchone()
        return None if row is None else str(row[0])

    def note(self, name: str, value: str) -> None:
        """Keep a fact about what the file holds."""
        with self._lock:
            self._db.execute(
                "INSERT INTO facts VALUES (?,?) ON CONFLICT DO UPDATE SET value=excluded.value", (name, value)
            )

    def close(self) -> None:
        """Close the file."""
        with self._lock:
            self._db.close()

    def continuation(self, partition: TopicPartition, offset: int) -> int:
        """Return where reading has to go on, so that everything from `offset` on is covered without a hole."""
        with self._lock:
            end = self._covered_to(partition, offset)
        return offset if end is None else end

    def append(
        self,
        rows: Iterable[SpooledRow],
        markers: Iterable[SpooledMarker],
        spans: Mapping[TopicPartition, tuple[int, int]],
    ) -> None:
        """Store rows and markers and cover `spans` (first offset, next offset), in one transaction.

        What is there already stays.
        """
        with self._lock, self._transaction():
            self._db.executemany(
                "INSERT INTO rows VALUES (?,?,?,?,?,?,?,?,NULL,NULL) ON CONFLICT DO NOTHING",
                [
                    (*r.partition, r.offset, r.domain, r.record_id, int(r.held_out), r.prompt, r.completion)
                    for r in rows
                ],
            )
            self._db.executemany(
                "INSERT INTO markers VALUES (?,?,?,?) ON CONFLICT DO NOTHING",
                [(*m.partition, m.offset, m.domain) for m in markers],
            )
            for partition, (start, end) in spans.items():
                self._cover(partition, start, end)

    def block(self, watermarks: Watermarks, limit: int) -> Block | None:
        """Return up to `limit` rows the router has not applied, in stream order, or None when it has seen them all.

        A partition without a watermark begins at offset 0. Where the watermark lies in a hole of the coverage, nothing
        of that partition is returned.
        """
        rows: list[SpooledRow] = []
        spans: dict[TopicPartition, tuple[int, int]] = {}
        with self._lock:
            for partition in self._covered():
                start = watermarks.get(partition, 0)
                end = self._covered_to(partition, start)
                wanted = limit - len(rows)
                if end is None or wanted <= 0:
                    continue
                found = self._rows(
                    "topic=? AND part=? AND pos>=? AND pos<? ORDER BY pos LIMIT ?",
                    (*partition, start, end, wanted + 1),
                )
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
            # All rows by their stage, from the index alone; then less the few that the router has not applied yet.
            for domain, version, tried, held_out, rows in self._db.execute(
                "SELECT domain, sealed, tried IS NOT NULL, held_out, count(*) FROM rows "
                "GROUP BY domain, sealed, tried, held_out"
            ).fetchall():
                entry = waiting.get(domain, DomainBacklog())
                if version is None:
                    waiting[domain] = entry.plus(rows, held_out=held_out, tried=tried)
                else:
                    waiting[domain] = replace(entry, sealed=entry.sealed | {version})
            for partition in self._covered():
                for domain, tried, held_out, rows in self._db.execute(
                    "SELECT domain, tried IS NOT NULL, held_out, count(*) FROM rows "
                    "WHERE topic=? AND part=? AND pos>=? AND sealed IS NULL GROUP BY 1, 2, 3",
                    (*partition, watermarks.get(partition, 0)),
                ).fetchall():
                    entry = waiting[domain].plus(-rows, held_out=held_out, tried=tried)
                    waiting[domain] = replace(entry, unobserved=entry.unobserved + rows)
            for partition, offset in watermarks.items():
                for (domain,) in self._db.execute(
                    "SELECT DISTINCT domain FROM markers WHERE topic=? AND part=? AND pos<?", (*partition, offset)
                ).fetchall():
                    entry = waiting.get(domain, DomainBacklog())
                    waiting[domain] = replace(entry, markers=entry.markers | {partition})
        return waiting

    def seal(self, domain: str, version: int, watermarks: Watermarks) -> Seal:
        """Seal the domain's open, observed rows under `version` and drop its observed markers; repeatable."""
        with self._lock, self._transaction():
            for partition, offset in watermarks.items():
                self._db.execute(
                    "UPDATE rows SET sealed=? WHERE domain=? AND sealed IS NULL AND topic=? AND part=? AND pos<?",
                    (version, domain, *partition, offset),
                )
                self._db.execute(
                    "INSERT INTO seals VALUES (?,?,?,?,?) ON CONFLICT DO UPDATE SET next=max(next, excluded.next)",
                    (domain, version, *partition, offset),
                )
            self._drop_markers(domain, watermarks)
        return self.seal_of(domain, version)

    def seal_of(self, domain: str, version: int) -> Seal:
        """Return what is sealed under a version."""
        with self._lock:
            (rows,) = self._db.execute(
                "SELECT count(*) FROM rows WHERE domain=? AND sealed=?", (domain, version)
            ).fetchone()
            ends = self._db.execute(
                "SELECT topic, part, next FROM seals WHERE domain=? AND version=?", (domain, version)
            ).fetchall()
        return Seal(int(rows), {TopicPartition(topic, part): end for topic, part, end in ends})

    def sealed(self, domain: str, version: int) -> Sequence[SpooledRow]:
        """Return the rows sealed under a version."""
        with self._lock:
            return self._rows("domain=? AND sealed=?", (domain, version))

    def release(self, domain: str, version: int, watermarks: Watermarks) -> int:
        """Delete the rows sealed under a published version; returns their number.

        An open row of the domain below `watermarks`, up to which all spools have sealed, is a copy of one that another
        worker sealed: it goes too, or it would be learned twice.
        """
        with self._lock, self._transaction():
            self._db.execute("DELETE FROM seals WHERE domain=? AND version=?", (domain, version))
            released = self._db.execute("DELETE FROM rows WHERE domain=? AND sealed=?", (domain, version)).rowcount
            for partition, offset in watermarks.items():
                self._db.execute(
                    "DELETE FROM rows WHERE domain=? AND sealed IS NULL AND topic=? AND part=? AND pos<?",
                    (domain, *partition, offset),
                )
        return released

    def reopen(self, domain: str, version: int) -> None:
        """Open the rows of a rejected version again: they join the next training of the domain."""
        with self._lock, self._transaction():
            self._db.execute("DELETE FROM seals WHERE domain=? AND version=?", (domain, version))
            self._db.execute(
                "UPDATE rows SET sealed=NULL, tried=? WHERE domain=? AND sealed=?", (version, domain, version)
            )

    def forget(self, domain: str, watermarks: Watermarks | None = None) -> int:
        """Delete everything of a domain, or what lies below `watermarks`; returns the number of rows deleted."""
        with self._lock, self._transaction():
            self._db.execute("DELETE FROM seals WHERE domain=?", (domain,))
            if watermarks is None:
                self._db.execute("DELETE FROM markers WHERE domain=?", (domain,))
                return self._db.execute("DELETE FROM rows WHERE domain=?", (domain,)).rowcount
            self._drop_markers(domain, watermarks)
            return sum(
                self._db.execute(
                    "DELETE FROM rows WHERE domain=? AND topic=? AND part=? AND pos<?", (domain, *partition, offset)
                ).rowcount
                for partition, offset in watermarks.items()
            )

    def drop_markers(self, domain: str, watermarks: Watermarks) -> None:
        """Drop the observed markers of a domain that has nothing to train on."""
        with self._lock, self._transaction():
            self._drop_markers(domain, watermarks)

    def size(self) -> int:
        """Return the number of rows held."""
        with self._lock:
            return int(self._db.execute("SELECT count(*) FROM rows").fetchone()[0])

    def _rows(self, where: str, values: tuple[object, ...]) -> list[SpooledRow]:
        found = self._db.execute(f"SELECT {_ROW} FROM rows WHERE {where}", values).fetchall()
        return [SpooledRow(TopicPartition(t, p), pos, d, i, bool(h), *texts) for t, p, pos, d, i, h, *texts in found]

    def _drop_markers(self, domain: str, watermarks: Watermarks) -> None:
        for partition, offset in watermarks.items():
            self._db.execute(
                "DELETE FROM markers WHERE domain=? AND topic=? AND part=? AND pos<?", (domain, *partition, offset)
            )

    def _covered(self) -> list[TopicPartition]:
        known = self._db.execute("SELECT DISTINCT topic, part FROM coverage ORDER BY topic, part").fetchall()
        return [TopicPartition(topic, part) for topic, part in known]

    def _covered_to(self, partition: TopicPartition, offset: int) -> int | None:
        """Return the end of the covered interval that `offset` lies in, or None when it lies in none."""
        row = self._db.execute(
            "SELECT next FROM coverage WHERE topic=? AND part=? AND first<=? AND next>?", (*partition, offset, offset)
        ).fetchone()
        return None if row is None else int(row[0])

    def _cover(self, partition: TopicPartition, start: int, end: int) -> None:
        """Add an interval to the coverage and join it with those it touches."""
        touching = "topic=? AND part=? AND first<=? AND next>=?"
        place = (*partition, end, start)
        first, last = self._db.execute(f"SELECT min(first), max(next) FROM coverage WHERE {touching}", place).fetchone()
        if first is not None:
            start, end = min(start, first), max(end, last)
            self._db.execute(f"DELETE FROM coverage WHERE {touching}", place)
        self._db.execute("INSERT INTO coverage VALUES (?,?,?,?)", (*partition, start, end))

    def _transaction(self) -> _Transaction:
        return _Transaction(self._db)


class _Transaction:
    """BEGIN IMMEDIATE ... COMMIT, or ROLLBACK when the body or the commit raises."""

    def __init__(self, db: sqlite3.Connection) -> None:
        self._db = db

    def __enter__(self) -> None:
        self._db.execute("BEGIN IMMEDIATE")

    def __exit__(self, kind: object, *_: object) -> None:
        try:
            if kind is None:
                self._db.execute("COMMIT")
        finally:
            if self._db.in_transaction:
                self._db.execute("ROLLBACK")
