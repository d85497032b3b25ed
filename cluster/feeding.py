"""Feeding a file of examples into a stream, by HTTP or straight into the log."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from pathlib import Path

from cluster.client import Client
from cluster.errors import ClusterError
from streaming.location import StreamLocation, open_sink
from streaming.records import EndOfDomain, TaskRecord, read_jsonl

_BATCH = 500


def feed_file(file: Path, url: str, stream: str | None, close: bool) -> dict[str, int]:
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
    if stream is None:
        _by_http(records, url)
    else:
        _into_log(records, stream)
    return dict(counts)


def _by_http(records: list[TaskRecord | EndOfDomain], url: str) -> None:
    client = Client(url)
    for start in range(0, len(records), _BATCH):
        batch = [r.model_dump(mode="json", exclude_none=True) for r in records[start : start + _BATCH]]
        client.post("/v1/records", batch)


def _into_log(records: Iterable[TaskRecord | EndOfDomain], stream: str) -> None:
    sink = open_sink(StreamLocation.parse(stream))
    try:
        for record in records:
            sink.append(record)
        sink.flush()
    finally:
        sink.close()
