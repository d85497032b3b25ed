"""Putting a file of examples on a stream: what is sent, in which order, and where each domain ends.

It does not know how the records travel: a sink of the stream and the HTTP front door are sent the same ones.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from pathlib import Path

from streaming.errors import StreamError
from streaming.records import EndOfDomain, TaskRecord, read_jsonl
from streaming.source import RecordSink


def labelled_records(file: Path, *, close: bool) -> list[TaskRecord | EndOfDomain]:
    """The records of a JSON Lines file and, with `close`, the marker of each domain that has none in it.

    Raises StreamError where the file is not there or holds a record without a domain, RecordError naming `file:line`
    where a line can't be read.
    """
    if not file.is_file():
        raise StreamError(f"{file}: expected a JSONL file, got nothing there; check the path")
    records = list(read_jsonl(file))
    unlabelled = sum(1 for r in records if isinstance(r, TaskRecord) and r.domain is None)
    if unlabelled:
        raise StreamError(f"{file}: {unlabelled} records have no domain; learning needs labelled examples")
    marked = {r.domain for r in records if isinstance(r, EndOfDomain)}
    if close:
        records += [EndOfDomain(domain=domain) for domain in counts(records) if domain not in marked]
    return records


def counts(records: Iterable[TaskRecord | EndOfDomain]) -> dict[str, int]:
    """Number of examples by domain, in order of first appearance."""
    return dict(Counter(r.domain or "" for r in records if isinstance(r, TaskRecord)))


def append_all(sink: RecordSink, records: Iterable[TaskRecord | EndOfDomain]) -> None:
    """Append the records in order and flush; the sink is closed, also when that fails. Raises StreamError."""
    try:
        for record in records:
            sink.append(record)
        sink.flush()
    finally:
        sink.close()
