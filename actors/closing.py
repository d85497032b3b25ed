"""When a domain of the stream is complete."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from actors.report import IngestReport
from actors.spool import DomainBacklog
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

    def closes(self, backlog: DomainBacklog, partitions: frozenset[TopicPartition], now: float) -> bool:
        """Tell whether the domain is complete at Unix time `now`."""
        quiet = now - backlog.last_arrival
        everywhere = bool(partitions) and backlog.markers >= partitions
        if backlog.markers and (everywhere or quiet >= self.settle_seconds):
            return True
        if backlog.fresh == 0:
            return False
        if self.count is not None and backlog.fresh >= self.count:
            return True
        return self.quiet_seconds is not None and quiet >= self.quiet_seconds


def merge_backlogs(reports: Sequence[IngestReport]) -> dict[str, DomainBacklog]:
    """Add up what waits of each domain over the ingest workers."""
    merged: dict[str, DomainBacklog] = {}
    for report in reports:
        for domain, backlog in report.backlog.items():
            before = merged.get(domain, DomainBacklog())
            merged[domain] = DomainBacklog(
                train=before.train + backlog.train,
                held_out=before.held_out + backlog.held_out,
                fresh=before.fresh + backlog.fresh,
                markers=before.markers | backlog.markers,
                last_arrival=max(before.last_arrival, backlog.last_arrival),
                sealed=before.sealed | backlog.sealed,
            )
    return merged
