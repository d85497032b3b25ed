"""Putting a file of examples on a stream: what is sent, in which order, and where each domain ends.

It does not know how the records travel: a sink of the stream and the HTTP front door are sent the same ones.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from streaming.columns import Columns
from streaming.errors import RecordError, StreamError, TooLarge
from streaming.records import EndOfDomain, TaskRecord, read_jsonl
from streaming.rows import DataFile, rows
from streaming.source import RecordSink

BATCH_RECORDS = 500
"""Records that are sent at a time, at most."""
BATCH_BYTES = 8 << 20
"""Their bytes as JSON, at most, where it is more than one: a quarter of what the front door takes in one body."""

Append = Callable[[list[TaskRecord | EndOfDomain]], object]
"""What takes records, all of a batch or none; they are durable when it returns."""


@dataclass
class Feeding:
    """A data set on its way: what was sent of each domain, and what was refused and why.

    With `skip_bad` a row that can't be used is counted and passed over; else it ends the feeding with a RecordError."""

    files: Sequence[DataFile]
    columns: Columns
    skip_bad: bool = False
    counts: Counter[str] = field(default_factory=Counter)
    refused: Counter[str] = field(default_factory=Counter)
    first_refused: str = ""
    _marked: set[str] = field(default_factory=set)

    @property
    def bytes(self) -> int:
        """Bytes of all files."""
        return sum(file.path.stat().st_size for file in self.files)

    def check(self) -> None:
        """Read all rows and send none. Raises RecordError for the first that can't be used."""
        for row in rows(self.files):
            self.columns.record(row)

    def send(self, append: Append, read: Callable[[int], None], *, close: bool) -> None:
        """Hand all records to `append` in order and bounded batches, and with `close` the marker of each domain that
        has none; `read` hears how many bytes of the files are done.

        Raises StreamError where a file can't be read, and whatever `append` does; `counts` tells what was sent then.
        """
        done = 0

        def records() -> Iterator[TaskRecord | EndOfDomain]:
            nonlocal done
            for row in rows(self.files):
                try:
                    record = self.columns.record(row)
                except RecordError as error:
                    if not self.skip_bad:
                        raise
                    self._refuse(error)
                else:
                    yield record
                done = row.read

        for batch in batches(records()):
            self._append(append, batch)
            read(done)
        read(self.bytes)
        if close and (unmarked := [EndOfDomain(domain=each) for each in self.counts if each not in self._marked]):
            self._append(append, list(unmarked))

    def _append(self, append: Append, batch: list[TaskRecord | EndOfDomain]) -> None:
        """Append; with `skip_bad`, what is too large for the stream is sought by halves and left out."""
        try:
            append(batch)
        except TooLarge as error:
            if not self.skip_bad:
                raise
            if len(batch) == 1:
                self._refuse(RecordError("too-large", str(error)))
                return
            half = len(batch) // 2
            self._append(append, batch[:half])
            self._append(append, batch[half:])
            return
        self.counts.update(counts(batch))
        self._marked |= {record.domain for record in batch if isinstance(record, EndOfDomain)}

    def _refuse(self, error: RecordError) -> None:
        self.refused[error.reason] += 1
        self.first_refused = self.first_refused or str(error)


def batches(records: Iterable[TaskRecord | EndOfDomain]) -> Iterator[list[TaskRecord | EndOfDomain]]:
    """The records in order, in batches of at most `BATCH_RECORDS` and `BATCH_BYTES`; a larger one goes alone."""
    batch: list[TaskRecord | EndOfDomain] = []
    size = 0
    for record in records:
        own = len(json.dumps(record.to_mapping(), ensure_ascii=False).encode())
        if batch and (len(batch) == BATCH_RECORDS or size + own > BATCH_BYTES):
            yield batch
            batch, size = [], 0
        batch.append(record)
        size += own
    if batch:
        yield batch


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
