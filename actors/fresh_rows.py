"""What was appended to a spool last, as it came: kept in memory for who reads it next, and so read from no file.

Of each partition it is one stretch without a hole. Where anything but an append changes the rows of a partition it is
forgotten, and what does not fit any more goes, the oldest first: the file has it all.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import deque
from collections.abc import Sequence
from operator import attrgetter
from typing import NamedTuple

from actors.coverage import Span
from actors.packs import SpooledRow
from streaming.source import TopicPartition

_MOST_BYTES = 16 << 20
_offset = attrgetter("offset")


class _Piece(NamedTuple):
    first: int
    end: int
    rows: Sequence[SpooledRow]
    size: int


class FreshRows:
    """Rows by partition; whoever calls holds the spool's lock. `size` of rows is that of their texts in bytes."""

    def __init__(self) -> None:
        self._pieces: dict[TopicPartition, deque[_Piece]] = {}
        self._size = 0

    def add(self, span: Span, rows: Sequence[SpooledRow], size: int) -> None:
        """Take the rows of a stretch, in order: all that the file has of it."""
        known = self._pieces.get(span.partition)
        if known and known[-1].end != span.first:
            self.forget(span.partition)
        self._pieces.setdefault(span.partition, deque()).append(_Piece(span.first, span.end, rows, size))
        self._size += size
        while self._size > _MOST_BYTES:
            self._drop_first(max(self._pieces, key=lambda each: len(self._pieces[each])))

    def recall(self, partition: TopicPartition, first: int, limit: int) -> tuple[list[SpooledRow], int] | None:
        """Return rows from an offset on, in order, `limit` of them or all that are here, and up to where these are all
        there are; None where the offset is not here. What lies in pieces before it is forgotten."""
        pieces = self._pieces.get(partition)
        if not pieces or first < pieces[0].first:
            return None
        while pieces and pieces[0].end <= first:
            self._drop_first(partition)
        if not pieces:
            return None
        found: list[SpooledRow] = []
        end = first
        for piece in pieces:
            start = bisect_left(piece.rows, first, key=_offset) if piece.first < first else 0
            found += piece.rows[start : start + limit - len(found)]
            end = piece.end
            if len(found) == limit:
                end = min(end, found[-1].offset + 1)
                break
        return found, end

    def forget(self, partition: TopicPartition) -> None:
        """Forget what is here of a partition."""
        for piece in self._pieces.pop(partition, ()):
            self._size -= piece.size

    def clear(self) -> None:
        """Forget everything."""
        self._pieces.clear()
        self._size = 0

    def _drop_first(self, partition: TopicPartition) -> None:
        pieces = self._pieces[partition]
        self._size -= pieces.popleft().size
        if not pieces:
            del self._pieces[partition]
