"""What an ingest worker says of itself; apart from the worker, whose imports its readers don't need."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from actors.backlog import DomainBacklog
from streaming.source import TopicPartition


@dataclass(frozen=True)
class IngestReport:
    """Where a worker stands: backlog by domain, spool size, counters since it started, and its last trouble."""

    backlog: Mapping[str, DomainBacklog]
    watermarks: Mapping[TopicPartition, int]
    """Up to where the backlog was looked at: the router's, as this worker last heard of them."""
    partitions: frozenset[TopicPartition]
    spooled: int
    full: bool
    polled: int
    dead_letters: int
    duplicates: int
    trouble: Mapping[str, str]
    """The last error of each loop that is failing now, and dead letters that were lost; empty when all is well."""
