"""What is handed on of a data set, in which batches, and what is counted."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from streaming.columns import Columns
from streaming.errors import RecordError, StreamError, TooLarge
from streaming.feeding import BATCH_BYTES, Feeding, batches
from streaming.records import EndOfDomain, TaskRecord
from streaming.rows import data_files

Sent = list[TaskRecord | EndOfDomain]


def write(path: Path, rows: list[object]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def example(n: int, domain: str = "d", size: int = 1) -> dict[str, str]:
    return {"domain": domain, "prompt": f"{n} " + "x" * size, "completion": "a"}


def test_batches_are_bounded_and_lose_nothing() -> None:
    sizes = [1] * 700 + [BATCH_BYTES // 2] * 3 + [2 * BATCH_BYTES] + [1] * 3
    records = [
        TaskRecord(domain="d", prompt=f"{n} " + "ü" * (size // 2), completion="a") for n, size in enumerate(sizes)
    ]
    found = list(batches(records))
    assert [record for batch in found for record in batch] == records
    assert [len(batch) for batch in found] == [500, 201, 1, 1, 1, 3]
    assert list(batches([])) == []


def test_domains_are_closed_once(tmp_path: Path) -> None:
    rows: list[object] = [example(1, "a"), {"kind": "end_of_domain", "domain": "a"}, example(2, "b"), example(3, "b")]
    feeding = Feeding(data_files(write(tmp_path / "f.jsonl", rows)), Columns())
    sent: Sent = []
    read: list[int] = []
    feeding.send(sent.extend, read.append, close=True)
    assert [type(each).__name__ for each in sent] == [
        "TaskRecord", "EndOfDomain", "TaskRecord", "TaskRecord", "EndOfDomain"
    ]  # fmt: skip
    assert sent[-1] == EndOfDomain(domain="b")
    assert dict(feeding.counts) == {"a": 1, "b": 2}
    assert read[-1] == feeding.bytes and read == sorted(read)


def test_the_first_bad_row_ends_it(tmp_path: Path) -> None:
    rows: list[object] = [*(example(n) for n in range(600)), {"domain": "d", "prompt": "q"}]
    feeding = Feeding(data_files(write(tmp_path / "f.jsonl", rows)), Columns())
    with pytest.raises(RecordError, match=r"f\.jsonl:601"):
        feeding.check()
    sent: Sent = []
    with pytest.raises(RecordError, match=r"f\.jsonl:601"):
        feeding.send(sent.extend, lambda _: None, close=True)
    assert feeding.counts.total() == len(sent) == 500


def test_bad_rows_are_passed_over_and_counted(tmp_path: Path) -> None:
    rows: list[object] = [
        7,
        example(1),
        {"domain": "d", "prompt": "q"},
        {"domain": "D!", "prompt": "q", "completion": "a"},
    ]
    feeding = Feeding(data_files(write(tmp_path / "f.jsonl", rows)), Columns(), skip_bad=True)
    sent: Sent = []
    feeding.send(sent.extend, lambda _: None, close=True)
    assert [type(each).__name__ for each in sent] == ["TaskRecord", "EndOfDomain"]
    assert dict(feeding.refused) == {"bad-record": 1, "empty-completion": 1, "bad-domain": 1}
    assert "f.jsonl:1" in feeding.first_refused


def test_what_is_too_large_for_the_stream_is_left_out_alone(tmp_path: Path) -> None:
    rows: list[object] = [example(n, size=5000 if n in (3, 77) else 1) for n in range(100)]
    files = data_files(write(tmp_path / "f.jsonl", rows))
    sent: Sent = []

    def append(batch: Sent) -> None:
        if any(len(str(record)) > 4000 for record in batch):
            raise TooLarge("too large")
        sent.extend(batch)

    feeding = Feeding(files, Columns(), skip_bad=True)
    feeding.send(append, lambda _: None, close=False)
    assert [int((record.prompt or "").split()[0]) for record in sent if isinstance(record, TaskRecord)] == [
        n for n in range(100) if n not in (3, 77)
    ]
    assert dict(feeding.refused) == {"too-large": 2}
    with pytest.raises(TooLarge):
        Feeding(files, Columns()).send(append, lambda _: None, close=False)


def test_an_append_that_fails_ends_it_and_what_was_sent_is_known(tmp_path: Path) -> None:
    feeding = Feeding(
        data_files(write(tmp_path / "f.jsonl", [example(n) for n in range(1200)])), Columns(), skip_bad=True
    )
    sent: Sent = []

    def append(batch: Sent) -> None:
        if sent:
            raise StreamError("gone")
        sent.extend(batch)

    with pytest.raises(StreamError, match="gone"):
        feeding.send(append, lambda _: None, close=True)
    assert feeding.counts.total() == 500
