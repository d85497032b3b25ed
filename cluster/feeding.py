"""Feeding a file of examples into a stream, by HTTP or straight into the log."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from pathlib import Path

from cluster.client import Client
from cluster.errors import ClusterError
from streaming.records import EndOfDomain, TaskRecord, read_jsonl
from streaming.source import RecordSink

_BATCH = 500


Item = TaskRecord | EndOfDomain
Feeder = Callable[[list[Item]], None]
"""Sends records, durably, or raises."""


def feed_file(file: Path, feeder: Feeder, close: bool) -> dict[str, int]:
    """Send every record of `file` and, with `close`, the marker of each domain in it; returns records by domain."""
    if not file.is_file():
        raise ClusterError(f"{file}: expected a JSONL file, got nothing there; check the path")
    records = list(read_jsonl(file))
    counts = Counter(r.domain or "" for r in records if isinstance(r, TaskRecord))
    if "" in counts:
        raise ClusterError(f"{file}: {counts['']} records have no domain; learning needs labelled examples")
    marked = {r.domain for r in records if isinstance(r, EndOfDomain)}
    if close:
        records += [EndOfDomain(domain=domain) for domain in counts if domain not in marked]
    feeder(records)
    return dict(counts)


def by_http(url: str) -> Feeder:
    """Return a feeder that sends to the front door at `url`."""

    def send(records: list[Item]) -> None:
        client = Client(url)
        for start in range(0, len(records), _BATCH):
            batch = [r.model_dump(mode="json", exclude_none=True) for r in records[start : start + _BATCH]]
            client.post("/v1/records", batch)

    return send


def into_log(sink: RecordSink) -> Feeder:
    """Return a feeder that writes to a stream's sink and closes it."""

    def send(records: list[Item]) -> None:
        try:
            for record in records:
                sink.append(record)
            sink.flush()
        finally:
            sink.close()

    return send
