"""Which offsets of the stream a spool has read: a set of intervals, kept in the spool's own file.

A partition that went to another worker and came back leaves a hole between what was read before and after, and so does
what the log does not give any more. Coverage says what was read, not what was kept of it. It knows neither rows nor
why a hole is there.
"""

from __future__ import annotations

import sqlite3
from typing import NamedTuple

from streaming.source import TopicPartition


class Span(NamedTuple):
    """Offsets `first` up to `end` (exclusive) of a partition."""

    partition: TopicPartition
    first: int
    end: int


class Coverage:
    """The intervals in the table `coverage` of a database; whoever calls holds its lock and its transaction."""

    def __init__(self, db: sqlite3.Connection) -> None:
        self._db = db

    def partitions(self) -> list[TopicPartition]:
        """Return the partitions of which anything was read."""
        known = self._db.execute("SELECT DISTINCT topic, part FROM coverage ORDER BY topic, part").fetchall()
        return [TopicPartition(topic, part) for topic, part in known]

    def ends(self) -> dict[TopicPartition, int]:
        """Return up to where each of these partitions was read."""
        known = self._db.execute("SELECT topic, part, max(next) FROM coverage GROUP BY topic, part").fetchall()
        return {TopicPartition(topic, part): end for topic, part, end in known}

    def spans(self) -> list[Span]:
        """Return all intervals, in order."""
        known = self._db.execute("SELECT topic, part, first, next FROM coverage ORDER BY 1, 2, 3").fetchall()
        return [Span(TopicPartition(topic, part), first, end) for topic, part, first, end in known]

    def reaches(self, partition: TopicPartition, offset: int) -> int | None:
        """Return the end of the interval that `offset` lies in, or None when it lies in none."""
        row = self._db.execute(
            "SELECT next FROM coverage WHERE topic=? AND part=? AND first<=? AND next>?", (*partition, offset, offset)
        ).fetchone()
        return None if row is None else int(row[0])

    def within(self, partition: TopicPartition, first: int, end: int) -> list[Span]:
        """Return what of a stretch was read."""
        touched = self._db.execute(
            "SELECT max(first, ?), min(next, ?) FROM coverage WHERE topic=? AND part=? AND first<? AND next>? "
            "ORDER BY first",
            (first, end, *partition, end, first),
        ).fetchall()
        return [Span(partition, start, stop) for start, stop in touched]

    def holes(self, partition: TopicPartition, first: int, end: int) -> list[Span]:
        """Return what of a stretch was not read."""
        found = []
        for read in self.within(partition, first, end):
            if first < read.first:
                found.append(Span(partition, first, read.first))
            first = read.end
        if first < end:
            found.append(Span(partition, first, end))
        return found

    def add(self, span: Span) -> None:
        """Add an interval and join it with those it touches."""
        partition, first, end = span
        touching = "topic=? AND part=? AND first<=? AND next>=?"
        place = (*partition, end, first)
        low, high = self._db.execute(f"SELECT min(first), max(next) FROM coverage WHERE {touching}", place).fetchone()
        if low is not None:
            first, end = min(first, low), max(end, high)
            self._db.execute(f"DELETE FROM coverage WHERE {touching}", place)
        self._db.execute("INSERT INTO coverage VALUES (?,?,?,?)", (*partition, first, end))
