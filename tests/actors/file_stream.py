"""The embedded stream as a house uses one: it is written, read by members, and loses its beginning."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable
from contextlib import closing
from pathlib import Path

from streaming.dead_letters import DeadLetters
from streaming.location import StreamLocation, ensure_topic, open_dead_letters, open_sink, open_source
from streaming.records import EndOfDomain, TaskRecord
from streaming.source import RecordSink, RecordSource, StartAt, TopicPartition

_OFFSET_BITS = 40
"""How many bits of a record's key in the file are its offset."""


class FileStream:
    """A topic `stream` in a file, and its dead letters."""

    def __init__(self, path: Path, partitions: int) -> None:
        self.location = StreamLocation("embedded", "stream", path=path)
        ensure_topic(self.location, partitions)
        self.sink: RecordSink = open_sink(self.location)
        self.letters: DeadLetters = open_dead_letters(self.location)
        self._reader = open_source(self.location, group=None)

    def open(self, start_at: StartAt, member: int, members: int) -> RecordSource:
        return open_source(self.location, group="house", start_at=start_at, member=member, members=members)

    def send(self, records: Iterable[TaskRecord | EndOfDomain]) -> None:
        for record in records:
            self.sink.append(record)
        self.sink.flush()

    def ends(self) -> dict[TopicPartition, int]:
        return {each: self._reader.bounds(each)[1] for each in self._reader.partitions()}

    def truncate(self, each: TopicPartition, first: int) -> None:
        """Delete the entries before `first`, as retention does."""
        with closing(sqlite3.connect(str(self.location.path), isolation_level=None)) as log:
            query = "SELECT log FROM partition WHERE topic=? AND number=?"
            (number,) = log.execute(query, (each.topic, each.partition)).fetchone()
            low = number << _OFFSET_BITS
            log.execute("DELETE FROM record WHERE place >= ? AND place < ?", (low, low + first))

    def close(self) -> None:
        self.sink.close()
        self.letters.close()
        self._reader.close()
