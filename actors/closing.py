"""When a domain of the stream is complete. It knows no clock: ages come from the workers that measured them."""

from __future__ import annotations

from dataclasses import dataclass

from actors.backlog import DomainBacklog
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

    def closes(self, backlog: DomainBacklog, partitions: frozenset[TopicPartition]) -> bool:
        """Tell whether the domain is complete."""
        quiet = backlog.quiet_seconds
        everywhere = bool(partitions) and backlog.markers >= partitions
        if backlog.markers and (everywhere or quiet >= self.settle_seconds):
            return True
        if backlog.fresh == 0:
            return False
        if self.count is not None and backlog.fresh >= self.count:
            return True
        return self.quiet_seconds is not None and quiet >= self.quiet_seconds
