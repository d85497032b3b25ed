"""When a domain of the stream is complete, and where it ends then. It knows no clock: ages come from the workers."""

from __future__ import annotations

from dataclasses import dataclass

from actors.backlog import DomainBacklog
from actors.observation import Watermarks
from streaming.source import TopicPartition


@dataclass(frozen=True)
class ClosingRule:
    """When a domain is complete: after `count` examples, after `quiet_seconds` without one, or at its marker.

    A marker closes the domain at once when it has come in every partition, and `settle_seconds` after the domain's last
    example when it has come in some.
    """

    count: int | None
    quiet_seconds: float | None
    settle_seconds: float

    def is_marked(self, backlog: DomainBacklog, partitions: frozenset[TopicPartition]) -> bool:
        """Tell whether the domain's markers complete it."""
        markers = backlog.ledger.markers
        everywhere = bool(partitions) and markers.keys() >= partitions
        return bool(markers) and (everywhere or backlog.quiet_seconds >= self.settle_seconds)

    def is_enough(self, backlog: DomainBacklog) -> bool:
        """Tell whether the number of its new rows, or their age, completes the domain."""
        fresh = backlog.ledger.fresh
        if fresh == 0:
            return False
        if self.count is not None and fresh >= self.count:
            return True
        return self.quiet_seconds is not None and backlog.quiet_seconds >= self.quiet_seconds


def end_at_markers(backlog: DomainBacklog, observed: Watermarks) -> dict[TopicPartition, int]:
    """Return up to where a domain reaches that its markers complete: rows behind them belong to what comes next."""
    markers = backlog.ledger.markers
    return {p: min(end, markers[p] + 1) if p in markers else end for p, end in observed.items()}
