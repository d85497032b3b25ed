"""A stream in memory, to the contract of `streaming.source`: its beginning can be cut off, single entries can go from
its middle, and its partitions be given to other members while it is read. Courses of events take it, because they come
to thousands of openings.

A member learns at its next poll that its partitions are others; so for a while two may read the same one. It knows
nothing of records beyond their bytes.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice

from streaming.beginnings import Beginnings
from streaming.errors import RecordError
from streaming.records import EndOfDomain, TaskRecord
from streaming.source import Envelope, StartAt, TopicPartition
from streaming.wire import encode

TOPIC = "stream"


@dataclass
class MemoryLog:
    """Entries by partition, each at the index that is its offset. Before the offset in `firsts` all is gone, and so are
    those in `compacted`; `owners` has the member that reads it."""

    count: int
    identity: str = "0" * 32
    entries: dict[TopicPartition, list[Envelope]] = field(default_factory=dict)
    firsts: dict[TopicPartition, int] = field(default_factory=dict)
    compacted: dict[TopicPartition, set[int]] = field(default_factory=dict)
    owners: dict[TopicPartition, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for number in range(self.count):
            each = TopicPartition(TOPIC, number)
            self.entries[each], self.firsts[each], self.owners[each] = [], 0, 0
            self.compacted[each] = set()

    @property
    def partitions(self) -> frozenset[TopicPartition]:
        return frozenset(self.entries)

    def append(self, record: TaskRecord | EndOfDomain, number: int | None = None) -> list[Envelope]:
        """Append a record to the partition of its id, or to the one named; a marker to all."""
        value, headers = encode(record)
        if isinstance(record, EndOfDomain) and number is None:
            return [self._put(each, value, headers) for each in sorted(self.entries)]
        if number is None:
            number = zlib.crc32(record.id.encode()) % self.count if isinstance(record, TaskRecord) else 0
        return [self._put(TopicPartition(TOPIC, number % self.count), value, headers)]

    def append_raw(self, value: bytes | None, number: int = 0) -> Envelope:
        return self._put(TopicPartition(TOPIC, number % self.count), value, ())

    def _put(self, each: TopicPartition, value: bytes | None, headers: object) -> Envelope:
        entry = Envelope(each.topic, each.partition, len(self.entries[each]), None, value, headers, 0)  # type: ignore[arg-type]
        self.entries[each].append(entry)
        return entry

    def ends(self) -> dict[TopicPartition, int]:
        return {each: len(entries) for each, entries in self.entries.items()}

    def truncate(self, each: TopicPartition, first: int) -> None:
        """Forget what lies before `first`, as retention does."""
        self.firsts[each] = max(self.firsts[each], min(first, len(self.entries[each])))

    def compact(self, each: TopicPartition, offsets: Iterable[int]) -> None:
        """Forget single entries, as log compaction does: offsets stay as they are, the last entry is never taken."""
        last = len(self.entries[each]) - 1
        self.compacted[each].update(offset for offset in offsets if offset < last)

    def read(self, each: TopicPartition, position: int, count: int) -> list[Envelope]:
        """Return the next entries that are there from `position` on, at most `count`."""
        entries, gone = self.entries[each], self.compacted[each]
        there = (entries[offset] for offset in range(position, len(entries)) if offset not in gone)
        return list(islice(there, count))

    def deal(self, members: int, shift: int = 0) -> None:
        """Give the partitions to this many members in turn."""
        for place, each in enumerate(sorted(self.entries)):
            self.owners[each] = (place + shift) % members


class MemorySource:
    """`RecordSource` of one member over a `MemoryLog`."""

    def __init__(self, log: MemoryLog, start_at: StartAt, member: int) -> None:
        self._log, self._member = log, member
        self._beginnings = Beginnings(start_at)
        self._positions: dict[TopicPartition, int] = {}
        self._assigned: frozenset[TopicPartition] = frozenset()
        self._paused: set[TopicPartition] = set()

    def identity(self) -> str | None:
        return self._log.identity

    def poll(self, timeout_s: float, max_records: int) -> list[Envelope]:
        self._rejoin()
        self._beginnings.settle(self._place)
        found: list[Envelope] = []
        for each in sorted(self._positions):
            if each in self._paused:
                continue
            stands = max(self._positions[each], self._log.firsts[each])
            some = self._log.read(each, stands, max_records - len(found))
            found += some
            self._positions[each] = some[-1].offset + 1 if some else stands
        if not found:
            self._beginnings.raise_failure()
        return found

    def assignment(self) -> frozenset[TopicPartition]:
        return self._assigned

    def partitions(self) -> frozenset[TopicPartition]:
        return self._log.partitions

    def positions(self) -> dict[TopicPartition, int]:
        return dict(self._positions)

    def lag(self) -> dict[TopicPartition, int]:
        ends = self._log.ends()
        return {each: ends[each] - position for each, position in self._positions.items()}

    def bounds(self, partition: TopicPartition) -> tuple[int, int]:
        return self._log.firsts[partition], len(self._log.entries[partition])

    def pause(self, partitions: Iterable[TopicPartition]) -> None:
        self._paused.update(partitions)

    def resume(self, partitions: Iterable[TopicPartition]) -> None:
        self._paused.difference_update(partitions)

    def commit(self, offsets: Mapping[TopicPartition, int]) -> None:
        """What a group notes is advisory; nothing here asks for it."""

    def close(self) -> None:
        self._positions = {}

    def _rejoin(self) -> None:
        mine = frozenset(each for each, owner in self._log.owners.items() if owner == self._member)
        if mine != self._assigned:
            self._assigned, self._positions = mine, {}
            self._beginnings.add(mine)

    def _place(self, each: TopicPartition, wanted: int | None) -> None:
        self._positions[each] = wanted or 0


class MemoryLetters:
    """Dead letters kept in a list."""

    def __init__(self) -> None:
        self.letters: list[tuple[Envelope, RecordError]] = []
        self.lost = 0

    def put_all(self, letters: Iterable[tuple[Envelope, RecordError]]) -> int:
        self.letters += letters
        return 0

    def close(self) -> None:
        pass


class MemoryStream:
    """A `MemoryLog` as a house uses a stream."""

    def __init__(self, partitions: int) -> None:
        self.log = MemoryLog(partitions)
        self.letters = MemoryLetters()

    def open(self, start_at: StartAt, member: int, members: int) -> MemorySource:
        return MemorySource(self.log, start_at, member)

    def send(self, records: Sequence[TaskRecord | EndOfDomain]) -> None:
        for record in records:
            self.log.append(record)

    def ends(self) -> dict[TopicPartition, int]:
        return self.log.ends()

    def truncate(self, each: TopicPartition, first: int) -> None:
        self.log.truncate(each, first)

    def compact(self, each: TopicPartition, offsets: Iterable[int]) -> None:
        self.log.compact(each, offsets)

    def close(self) -> None:
        pass
