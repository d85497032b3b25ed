"""The contract of a stream: ordered partitions of bytes that a source reads and a sink writes.

One contract suite runs against every implementation (`tests/streaming`). This module does not know any of them, nor
what the bytes mean.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import NamedTuple, Protocol

from streaming.entries import EntryLimits
from streaming.errors import LogReplaced
from streaming.records import EndOfDomain, TaskRecord
from streaming.wire import Headers


class TopicPartition(NamedTuple):
    """One ordered log of a topic."""

    topic: str
    partition: int

    def __str__(self) -> str:
        return f"{self.topic}[{self.partition}]"


StartAt = Callable[[TopicPartition], "int | None"]
"""Where to begin a partition: the next offset wanted; None = the group's committed offset, else the earliest. Asked
within `poll`, at each assignment; it may take its time, and may raise: then it is asked again later."""


def from_committed(_partition: TopicPartition) -> int | None:
    """The `StartAt` that leaves the choice to the group's committed offset."""
    return None


def from_beginning(_partition: TopicPartition) -> int | None:
    """The `StartAt` that reads everything there is."""
    return 0


class Envelope(NamedTuple):
    """Bytes as they lie in the log, with their place. `offset` grows within a partition; it may have gaps."""

    topic: str
    partition: int
    offset: int
    key: bytes | None
    value: bytes | None
    headers: Headers
    timestamp_ms: int

    @property
    def topic_partition(self) -> TopicPartition:
        return TopicPartition(self.topic, self.partition)

    def __str__(self) -> str:
        return f"{self.topic}[{self.partition}]@{self.offset}"


def check_identity(where: str, found: str | None, expected: str | None) -> None:
    """Raise LogReplaced where both identities are known and differ."""
    if found is not None and expected is not None and found != expected:
        raise LogReplaced(
            f"{where} is another log than before: expected identity {expected}, got {found}; it was deleted and created"
            " again: put the old one back, or start with a new home"
        )


class RecordSource(Protocol):
    """A reader of one topic, alone or as a member of a group. One thread uses it at a time.

    Delivery is at least once: after a restart or a rebalance a partition begins again at `start_at`. Broken connections
    are mended inside; what can't be mended raises StreamError.
    """

    def identity(self) -> str | None:
        """The name that the log was given when it was created and that no other log ever has, whatever its topic is
        called; None where the broker gives none. Positions are worth something only together with it."""
        ...

    def poll(self, timeout_s: float, max_records: int) -> list[Envelope]:
        """Up to `max_records`, each partition's in order; waits about `timeout_s` for the first, some seconds longer
        while its group settles. Call it often: in a group, a member that doesn't poll loses its partitions.

        Partitions newly assigned are read once `start_at` has said from where; where that fails, the others are read
        on, and StreamError is raised at each further try and whenever the others have nothing. Raises LogReplaced where
        the log is not the one that was opened, before anything of the new one is returned.
        """
        ...

    def assignment(self) -> frozenset[TopicPartition]:
        """The partitions this source reads now; empty until the group has settled, which needs polling."""
        ...

    def partitions(self) -> frozenset[TopicPartition]:
        """All partitions of the topic."""
        ...

    def positions(self) -> dict[TopicPartition, int]:
        """Of each assigned partition, the next offset to be polled, where it is known: behind all that polls returned,
        and behind what holds no record there (a transaction's marker, what it took back, what was compacted away)."""
        ...

    def lag(self) -> dict[TopicPartition, int]:
        """Of each assigned partition, how many offsets lie ahead, as last seen; absent until it was read from once."""
        ...

    def bounds(self, partition: TopicPartition) -> tuple[int, int]:
        """The first offset that the log still gives, and its end, the next offset to be written; both are the end where
        it holds nothing. What was appended before the call lies below the end, also where it is paused or not polled
        yet. Raises StreamError where nobody can say it now."""
        ...

    def pause(self, partitions: Iterable[TopicPartition]) -> None:
        """Poll nothing from these until `resume`, also where a rebalance takes them away and brings them back."""
        ...

    def resume(self, partitions: Iterable[TopicPartition]) -> None:
        """Undo `pause`."""
        ...

    def commit(self, offsets: Mapping[TopicPartition, int]) -> None:
        """Note the next offset wanted, for `start_at` = None and for lag monitors. Advisory: during a rebalance or an
        outage it may be dropped without an error, the next one makes up for it."""
        ...

    def close(self) -> None:
        """Leave the group and release everything. Twice is fine."""
        ...


class RecordSink(Protocol):
    """A writer to one topic. Appends are buffered; `flush` makes them durable and visible, or raises.

    Every kind of stream refuses an entry beyond its `limits` with TooLarge, before anything of it is written.
    """

    @property
    def limits(self) -> EntryLimits:
        """What is taken, to be checked before; appends check it themselves."""
        ...

    def append(self, record: TaskRecord | EndOfDomain) -> None:
        """A record goes to the partition of its id, so a resent one meets its twin; a marker to every partition, under
        a key that nothing else has."""
        ...

    def append_raw(self, value: bytes | None, headers: Headers = (), key: bytes | None = None) -> None:
        """Bytes as they are, to the partition of `key`; without one, to any."""
        ...

    def append_all(self, records: Sequence[TaskRecord | EndOfDomain]) -> None:
        """Append these and flush. All are checked before the first is written: TooLarge names the one at fault.

        The embedded log writes them in one transaction, all or none. Kafka may have taken some where an outage
        interrupts it: sending all again is safe, since ids make them unique.
        """
        ...

    def flush(self) -> None:
        """Return when everything appended is durable. Raises StreamError if any append since the last flush was lost:
        send those again."""
        ...

    def close(self) -> None:
        """Flush and release everything. Twice is fine."""
        ...
