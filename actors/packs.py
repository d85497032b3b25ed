"""The rows of a spool, many in one of SQLite's: those of one domain that came together from one partition.

A pack costs two B-trees' inserts, as one example by itself would, and what is asked of many examples (how many wait,
how much a domain takes, what lies below a fence) is asked of a few packs. Where single rows of a pack go or change, it
is written anew. It knows neither coverage nor the ledger.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import groupby, repeat
from operator import attrgetter, itemgetter
from typing import NamedTuple

import msgspec
import numpy as np

from actors.observation import Int64
from actors.spool_file import UnreadableSpool
from streaming.source import TopicPartition

SCHEMA = """
CREATE TABLE IF NOT EXISTS packs (
    id INTEGER PRIMARY KEY, topic TEXT NOT NULL, part INTEGER NOT NULL, first INTEGER NOT NULL, last INTEGER NOT NULL,
    domain TEXT NOT NULL, rows INTEGER NOT NULL, size INTEGER NOT NULL, offsets BLOB NOT NULL, content BLOB NOT NULL);
CREATE UNIQUE INDEX IF NOT EXISTS packs_place ON packs (topic, part, first);
CREATE INDEX IF NOT EXISTS packs_domain ON packs (domain, topic, part, first, rows, size);
"""
_MOST_ROWS = 512
_REACH = 4_096
"""Of a pack, offsets from its first to its last row: so all that reach into a stretch are found by their first."""
_MOST_BYTES = 1 << 20
_PACK = "topic, part, domain, offsets, content"
_TOUCHING = "topic=? AND part=? AND first>? AND first<? AND last>=?"


class SpooledRow(NamedTuple):
    """One example: where it stood in the stream, what it belongs to, and its texts."""

    partition: TopicPartition
    offset: int
    domain: str
    record_id: str
    held_out: bool
    prompt: str
    """As the template rendered it."""
    completion: str


class Amount(NamedTuple):
    """A number of rows, and in how many bytes they are packed."""

    rows: int = 0
    size: int = 0

    def plus(self, more: Amount) -> Amount:
        """Return the amount of both."""
        return Amount(self.rows + more.rows, self.size + more.size)


class Added(NamedTuple):
    """What was added of a partition: its rows in order, and how much of each domain."""

    partition: TopicPartition
    rows: list[SpooledRow]
    amounts: dict[str, Amount]


_Columns = tuple[list[str], list[bool], list[str], list[str]]
_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(_Columns).decode
_offset = attrgetter("offset")


class Packs:
    """The rows in the table `packs` of a database; whoever calls holds its lock and its transaction.

    Reading raises `UnreadableSpool` where a pack is damaged.
    """

    def __init__(self, db: sqlite3.Connection) -> None:
        self._db = db

    def add(self, rows: Iterable[SpooledRow]) -> list[Added]:
        """Add rows, but for those whose places are taken; returns what was added."""
        by_partition: dict[TopicPartition, list[SpooledRow]] = {}
        for partition, run in groupby(rows, key=itemgetter(0)):
            by_partition.setdefault(partition, []).extend(run)
        return [self._add(partition, self._free(partition, some)) for partition, some in by_partition.items()]

    def _add(self, partition: TopicPartition, rows: list[SpooledRow]) -> Added:
        by_domain: dict[str, list[SpooledRow]] = {}
        for row in rows:
            by_domain.setdefault(row[2], []).append(row)
        amounts = {d: Amount(len(some), self._write(partition, d, some)) for d, some in by_domain.items()}
        return Added(partition, rows, amounts)

    def _free(self, partition: TopicPartition, rows: Iterable[SpooledRow]) -> list[SpooledRow]:
        """Return the rows whose places are not taken, in order."""
        rows = sorted(rows, key=_offset)
        offsets = set(map(_offset, rows))
        taken = offsets.intersection(self.offsets(partition, rows[0].offset, rows[-1].offset + 1).tolist())
        if len(offsets) == len(rows) and not taken:
            return rows
        free = {row.offset: row for row in reversed(rows) if row.offset not in taken}
        return sorted(free.values(), key=_offset)

    def _write(self, partition: TopicPartition, domain: str, rows: Sequence[SpooledRow]) -> int:
        """Write rows of one partition and domain, in order; returns their bytes."""
        if not rows:
            return 0
        _, offsets, _, *columns = zip(*rows, strict=True)
        content = _encode(columns)
        is_large = len(rows) > _MOST_ROWS or len(content) > _MOST_BYTES or offsets[-1] - offsets[0] >= _REACH
        if is_large and len(rows) > 1:
            middle = len(rows) // 2
            return self._write(partition, domain, rows[:middle]) + self._write(partition, domain, rows[middle:])
        packed = np.array(offsets, dtype="<i8").tobytes()
        self._db.execute(
            "INSERT INTO packs (topic, part, first, last, domain, rows, size, offsets, content) "
            "VALUES (?,?,?,?,?,?,?,?,?)",
            (*partition, offsets[0], offsets[-1], domain, len(rows), len(content), packed, content),
        )
        return len(content)

    def change(
        self,
        partition: TopicPartition,
        offsets: Iterable[int],
        change: Callable[[SpooledRow], SpooledRow | None],
    ) -> None:
        """Put what `change` makes of them in the place of the rows at these offsets, and drop those it makes None."""
        places = set(offsets)
        wanted = np.array(sorted(places), dtype=np.int64)
        found = self._db.execute(
            f"SELECT id, offsets FROM packs WHERE {_TOUCHING}", _touching(partition, min(places), max(places) + 1)
        ).fetchall()
        self._rewrite(
            [each for each, held in found if np.isin(wanted, _unpacked(held), assume_unique=True).any()],
            lambda row: change(row) if row.offset in places else row,
        )

    def drop_below(self, domain: str, partition: TopicPartition, offset: int) -> bool:
        """Drop the rows of a domain that lie below an offset of a partition; returns whether there were any."""
        below = "domain=? AND topic=? AND part=? AND first<?"
        found = self._db.execute(f"SELECT id, last FROM packs WHERE {below}", (domain, *partition, offset)).fetchall()
        self._db.execute(f"DELETE FROM packs WHERE {below} AND last<?", (domain, *partition, offset, offset))
        self._rewrite(
            [each for each, last in found if last >= offset], lambda row: row if row.offset >= offset else None
        )
        return bool(found)

    def _rewrite(self, packs: Iterable[int], change: Callable[[SpooledRow], SpooledRow | None]) -> None:
        for each in packs:
            rows = self._rows("id=?", (each,))
            self._db.execute("DELETE FROM packs WHERE id=?", (each,))
            kept = [after for row in rows if (after := change(row)) is not None]
            self._write(rows[0].partition, rows[0].domain, kept)

    # -- asking -------------------------------------------------------------------------------------------------------

    def recall(self, partition: TopicPartition, first: int, end: int, limit: int) -> list[SpooledRow]:
        """Return up to `limit` rows of a stretch of a partition, in order."""
        found: list[SpooledRow] = []
        packs = self._db.execute(
            f"SELECT {_PACK}, first FROM packs WHERE {_TOUCHING} ORDER BY first", _touching(partition, first, end)
        )
        for *pack, begins in packs:
            if len(found) >= limit:
                found.sort(key=_offset)
                if found[limit - 1].offset < begins:
                    break
            found += [row for row in _unpack(*pack) if first <= row.offset < end]
        return sorted(found, key=_offset)[:limit]

    def of(self, domain: str, partition: TopicPartition, end: int) -> list[SpooledRow]:
        """Return the rows of a domain below an offset of a partition, in order."""
        rows = self._rows("domain=? AND topic=? AND part=? AND first<?", (domain, *partition, end))
        return [row for row in sorted(rows, key=_offset) if row.offset < end]

    def all(self) -> Iterator[list[SpooledRow]]:
        """Return all rows, pack by pack."""
        return (_unpack(*pack) for pack in self._db.execute(f"SELECT {_PACK} FROM packs"))

    def offsets(self, partition: TopicPartition, first: int, end: int) -> Int64:
        """Return the offsets of the rows of a stretch, in order."""
        packs = self._db.execute(f"SELECT offsets FROM packs WHERE {_TOUCHING}", _touching(partition, first, end))
        parts = [_unpacked(held) for (held,) in packs]
        held = np.sort(np.concatenate(parts)) if parts else np.empty(0, dtype=np.int64)
        return held[(held >= first) & (held < end)]

    def tallies(self) -> dict[str, Amount]:
        """Return what there is of each domain."""
        found = self._db.execute("SELECT domain, sum(rows), sum(size) FROM packs GROUP BY domain").fetchall()
        return {domain: Amount(rows, size) for domain, rows, size in found}

    def counts_from(self, partition: TopicPartition, offset: int) -> dict[str, int]:
        """Return the number of rows of each domain in a partition, from an offset on."""
        counts: dict[str, int] = dict(
            self._db.execute(
                "SELECT domain, sum(rows) FROM packs WHERE topic=? AND part=? AND first>=? GROUP BY domain",
                (*partition, offset),
            ).fetchall()
        )
        around = self._db.execute(
            f"SELECT domain, offsets FROM packs WHERE {_TOUCHING}", _touching(partition, offset, offset)
        ).fetchall()
        for domain, held in around:
            counts[domain] = counts.get(domain, 0) + int(np.count_nonzero(_unpacked(held) >= offset))
        return counts

    def _rows(self, where: str, values: tuple[object, ...]) -> list[SpooledRow]:
        packs = self._db.execute(f"SELECT {_PACK} FROM packs WHERE {where}", values).fetchall()
        return [row for pack in packs for row in _unpack(*pack)]


def _touching(partition: TopicPartition, first: int, end: int) -> tuple[object, ...]:
    return (*partition, first - _REACH, end, first)


def _unpacked(offsets: bytes) -> Int64:
    try:
        return np.frombuffer(offsets, dtype="<i8")
    except (ValueError, TypeError) as error:
        raise UnreadableSpool(f"it is damaged ({error})") from error


def _unpack(topic: str, part: int, domain: str, offsets: bytes, content: bytes) -> list[SpooledRow]:
    places = _unpacked(offsets).tolist()
    try:
        columns = zip(places, repeat(domain, len(places)), *_decode(content), strict=True)
        partition = TopicPartition(topic, part)
        return [SpooledRow(partition, *row) for row in columns]
    except (msgspec.MsgspecError, ValueError, TypeError) as error:
        raise UnreadableSpool(f"it is damaged ({error})") from error
