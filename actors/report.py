"""What an ingest worker says of itself; apart from the worker, whose imports its readers don't need."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from actors.coverage import Span
from actors.observation import Int64
from streaming.source import TopicPartition

Bool = NDArray[np.bool_]


@dataclass(frozen=True)
class Survey:
    """What a worker has of a partition from an offset on."""

    held: Int64
    """Offsets of the rows in its spool, in order, up to the end that was asked for."""
    read: tuple[Span, ...]
    """What it has read, in order."""
    begins: int | None
    """First offset that the log still gives, where this worker is the one that reads the partition; None elsewhere."""

    def has_read(self, offset: int) -> bool:
        """Tell whether the worker has read an offset."""
        return any(span.first <= offset < span.end for span in self.read)

    def has_passed(self, offsets: Int64) -> Bool:
        """Tell of each offset whether this worker, which reads the partition, will never come to read it (again)."""
        passed = offsets < (self.begins or 0)
        for span in self.read:
            passed |= (span.first <= offsets) & (offsets < span.end)
        return passed


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
    trouble: Mapping[str, str]
    """The last error of each loop that is failing now, why a log's ends can't be seen, and dead letters that were lost;
    empty when all is well."""
    positions: Mapping[TopicPartition, int] = field(default_factory=dict)
    """Next offset to be spooled, of each partition that this worker reads."""
    reaches: Mapping[TopicPartition, int] = field(default_factory=dict)
    """Up to where the spool goes, of each partition of which this worker has read anything."""
    ends: Mapping[TopicPartition, int] = field(default_factory=dict)
    """Where the log ended, read or not, of each partition that this worker has read: as it last looked."""
    over_share: frozenset[str] = frozenset()
    """Domains that take more of the spool than a domain may while others wait in it."""
    lag: Mapping[TopicPartition, int] = field(default_factory=dict)
    """How many offsets of each partition that this worker reads now are still to be spooled, as it last looked."""

    def quiet_seconds(self, domain: str) -> float:
        """Return for how long this worker has heard nothing of the domain."""
        return self.quiet.get(domain, self.up_seconds)
