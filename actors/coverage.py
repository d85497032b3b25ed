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
        self._known: tuple[int, dict[TopicPartition, list[Span]]] = (-1, {})
        """The intervals by partition, as of a number of changes to the database."""

    def partitions(self) -> list[TopicPartition]:
        """Return the partitions of which anything was read."""
        return list(self._all())

    def ends(self) -> dict[TopicPartition, int]:
        """Return up to where each of these partitions was read."""
        return {partition: spans[-1].end for partition, spans in self._all().items()}

    def spans(self) -> list[Span]:
        """Return all intervals, in order."""
        return [span for spans in self._all().values() for span in spans]

    def reaches(self, partition: TopicPartition, offset: int) -> int | None:
        """Return the end of the interval that `offset` lies in, or None when it lies in none."""
        return next((end for _, first, end in self._all().get(partition, ()) if first <= offset < end), None)

    def within(self, partition: TopicPartition, first: int, end: int) -> list[Span]:
        """Return what of a stretch was read."""
        cut = [Span(partition, max(first, span.first), min(end, span.end)) for span in self._all().get(partition, ())]
        return [span for span in cut if span.first < span.end]

    def _all(self) -> dict[TopicPartition, list[Span]]:
        changes = self._db.total_changes
        if self._known[0] == changes:
            return self._known[1]
        found: dict[TopicPartition, list[Span]] = {}
        for topic, part, first, end in self._db.execute(
            "SELECT topic, part, first, next FROM coverage ORDER BY 1, 2, 3"
        ):
            partition = TopicPartition(topic, part)
            found.setdefault(partition, []).append(Span(partition, first, end))
        if not self._db.in_transaction:
            # Which may be rolled back, with no further change.
            self._known = changes, found
        return found

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
