"""What waits of a domain in the spools, as counts and an age. Knows neither the rows nor when enough has come."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace

from streaming.source import TopicPartition


@dataclass(frozen=True)
class DomainBacklog:
    """What waits of one domain: counts of rows that the router has applied, its markers, and how long it is quiet."""

    train: int = 0
    held_out: int = 0
    fresh: int = 0
    """Rows not yet part of a training that was rejected."""
    unobserved: int = 0
    """Rows that the router has not applied; they are in none of the other counts."""
    markers: frozenset[TopicPartition] = frozenset()
    """Partitions in which its end was marked."""
    sealed: frozenset[int] = frozenset()
    quiet_seconds: float = 0.0
    """Seconds since its last row or marker, on the clock of the worker that holds it; 0 while a row of it waits."""

    def plus(self, rows: int, *, held_out: bool, tried: bool) -> DomainBacklog:
        """Return this backlog with `rows` more open rows of one kind."""
        return replace(
            self,
            train=self.train + (0 if held_out else rows),
            held_out=self.held_out + (rows if held_out else 0),
            fresh=self.fresh + (0 if tried else rows),
        )

    def merged(self, other: DomainBacklog) -> DomainBacklog:
        """Return what two workers hold together; it is quiet for as long as both have heard nothing."""
        return DomainBacklog(
            train=self.train + other.train,
            held_out=self.held_out + other.held_out,
            fresh=self.fresh + other.fresh,
            unobserved=self.unobserved + other.unobserved,
            markers=self.markers | other.markers,
            sealed=self.sealed | other.sealed,
            quiet_seconds=min(self.quiet_seconds, other.quiet_seconds),
        )


def merge_backlogs(backlogs: Iterable[Mapping[str, DomainBacklog]]) -> dict[str, DomainBacklog]:
    """Add up what waits of each domain over the ingest workers."""
    merged: dict[str, DomainBacklog] = {}
    for one in backlogs:
        for domain, backlog in one.items():
            merged[domain] = merged[domain].merged(backlog) if domain in merged else backlog
    return merged
