"""What an ingest worker says of itself; apart from the worker, whose imports its readers don't need."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from streaming.source import TopicPartition


@dataclass(frozen=True)
class Missing:
    """Offsets `first` up to `end` (exclusive) that this worker should read and its log does not give any more."""

    partition: TopicPartition
    first: int
    end: int


@dataclass(frozen=True)
class Held:
    """What a spool has of a stretch of a partition: the offsets of its rows, and the first offset that it has read."""

    offsets: frozenset[int]
    begins: int | None


@dataclass(frozen=True)
class IngestReport:
    """Where a worker stands: what it holds by domain, spool size, counters since it started, and its last trouble."""

    rows: Mapping[str, int]
    """Rows in the spool, by domain."""
    unobserved: Mapping[str, int]
    """Of these, rows that the router has not counted yet, and rows read again that it has not confirmed."""
    quiet: Mapping[str, float]
    """Seconds since the last row or marker of each domain that was heard of since the start; 0 while a row waits."""
    up_seconds: float
    """Seconds since this worker's start: for so long it has heard nothing of every other domain."""
    partitions: frozenset[TopicPartition]
    spooled: int
    spooled_bytes: int
    full: bool
    polled: int
    dead_letters: int
    duplicates: int
    """Rows dropped because the ledger has them elsewhere or as settled."""
    missing: tuple[Missing, ...]
    trouble: Mapping[str, str]
    """The last error of each loop that is failing now, why a log's ends can't be seen, and dead letters that were lost;
    empty when all is well."""
    positions: Mapping[TopicPartition, int] = field(default_factory=dict)
    """Next offset to be spooled, of each partition that this worker reads."""
    ends: Mapping[TopicPartition, int] = field(default_factory=dict)
    """Where the log ended, read or not, of each partition that this worker has read: as it last looked."""

    def quiet_seconds(self, domain: str) -> float:
        """Return for how long this worker has heard nothing of the domain."""
        return self.quiet.get(domain, self.up_seconds)
