"""Which columns of a row become an example."""

from __future__ import annotations

from typing import Any

import pytest

from streaming.columns import Columns
from streaming.errors import RecordError
from streaming.records import EndOfDomain, Split, TaskRecord, from_mapping
from streaming.rows import Row


def row(values: Any, *, table: bool = True, split: Split | None = None) -> Row:
    return Row("f.csv:7", values, table, split, 0)


def made(values: dict[str, Any], columns: Columns = Columns(), **of_row: Any) -> TaskRecord:  # noqa: B008
    record = columns.record(row(values, **of_row))
    assert isinstance(record, TaskRecord)
    return record


@pytest.mark.parametrize("table", [True, False])
@pytest.mark.parametrize(
    ("values", "prompt"),
    [
        ({"task": "D", "input": "q", "output": "a"}, "q"),
        ({"domain": "d", "prompt": "q", "completion": "a"}, "q"),
        ({"domain": "d", "prompt": "q", "response": "a"}, "q"),
        ({"domain": "d", "question": "q", "answer": "a"}, "q"),
        ({"task": "d", "instruction": "q", "response": "a"}, "q"),
        ({"task": "d", "instruction": "q", "output": "a"}, "q"),
        ({"task": "d", "instruction": "do", "input": "q", "output": "a"}, "do\n\nq"),
        ({"task": "d", "instruction": "do", "input": None, "output": "a"}, "do"),
    ],
)
def test_known_names(values: dict[str, Any], prompt: str, table: bool) -> None:
    record = made(values, table=table)
    assert (record.domain, record.prompt, record.completion) == ("d", prompt, "a")


def test_named_columns_win() -> None:
    values = {"prompt": "x", "completion": "y", "domain": "z", "a": "q", "b": "r", "c": 3, "d": "Sales", "n": 12}
    columns = Columns(("a", "b"), "c", "d", None, "n")
    for table in (True, False):
        record = made(values, columns, table=table)
        assert (record.prompt, record.completion, record.domain, record.id) == ("q\n\nr", "3", "sales", "12")


@pytest.mark.parametrize("table", [True, False])
def test_one_domain_for_all(table: bool) -> None:
    values = {"task": "other", "input": "q", "output": "a"}
    assert made(values, Columns(domain="mine"), table=table).domain == "mine"


OWN: list[dict[str, Any]] = [
    {"id": "1", "domain": "d", "prompt": "q", "completion": "a", "split": "test", "meta": {"k": [1, None]}},
    {"domain": "d", "messages": [{"role": "user", "content": "q"}], "completion": "a"},
    {"task": "Sql", "input": "q", "output": "a", "extra": 1, "id": "7"},
    {"kind": "end_of_domain", "domain": "d"},
]


@pytest.mark.parametrize("values", OWN)
def test_own_layouts_of_json_are_read_as_the_stream_reads_them(values: dict[str, Any]) -> None:
    assert Columns().record(row(values, table=False)) == from_mapping(values)


def test_a_marker_of_another_domain() -> None:
    marker = {"kind": "end_of_domain", "domain": "d"}
    assert Columns(domain="x").record(row(marker, table=False)) == EndOfDomain(domain="x")


def test_a_conversation_may_end_with_its_answer() -> None:
    turns = [
        {"role": "system", "content": "s", "name": None},
        {"role": "user", "content": "q", "name": None},
        {"role": "assistant", "content": "a", "name": None},
    ]
    record = made({"messages": turns, "domain": "d"})
    assert record.completion == "a" and [turn["role"] for turn in record.messages_or_prompt()] == ["system", "user"]
    named = made({"chat": turns, "domain": "d"}, Columns(("chat",)))
    assert named == record
    assert made({"chat": turns[:2], "a": "b", "domain": "d"}, Columns(("chat",), "a")).completion == "b"


def test_parts_and_their_names() -> None:
    values = {"question": "q", "answer": "a", "domain": "d"}
    assert made(values).split is None
    assert made(values, split="test").split == "test"
    assert made({**values, "split": "validation"}, split="train").split == "test"
    assert made({"domain": "d", "prompt": "q", "completion": "a"}, table=False, split="test").split == "test"


@pytest.mark.parametrize("table", [True, False])
@pytest.mark.parametrize(
    ("values", "columns", "reason", "said"),
    [
        ({"a": "q", "b": "r", "domain": "d"}, Columns(), "bad-record", "got a, b, domain; name them with"),
        ({"a": "q", "b": "r"}, Columns(("a",), "c"), "bad-record", "no column 'c', got a, b"),
        ({"a": "q", "b": "r"}, Columns(("a",), "b"), "unlabelled", "no domain in column domain or task, got a, b"),
        ({"question": "q", "answer": None, "task": "d"}, Columns(), "empty-completion", "completion"),
        ({"question": None, "answer": "a", "task": "d"}, Columns(), "bad-record", "prompt"),
        ({"question": "q", "answer": 1.5, "task": "d"}, Columns(), "bad-record", "'answer': expected text, got float"),
        ({"question": "q", "answer": "a", "task": "No Slug"}, Columns(), "bad-domain", "slug"),
        ({"question": "q", "answer": "a", "task": "auto"}, Columns(), "bad-domain", "reserved"),
        ({"chat": [1], "domain": "d"}, Columns(("chat",)), "bad-record", "messages.0"),
        ({"messages": "text", "domain": "d"}, Columns(), "bad-record", "columns of a question"),
        ({}, Columns(), "bad-record", "an empty row"),
        ({"question": "\ud800", "answer": "a", "task": "d"}, Columns(), "bad-record", "surrogate"),
    ],
)
def test_what_cannot_be_used(values: dict[str, Any], columns: Columns, reason: str, said: str, table: bool) -> None:
    with pytest.raises(RecordError) as told:
        columns.record(row(values, table=table))
    assert str(told.value).startswith("f.csv:7: ") and said in str(told.value)
    assert told.value.reason == reason


def test_a_row_that_was_not_read() -> None:
    with pytest.raises(RecordError, match=r"^f.csv:7: not JSON$"):
        Columns().record(row(RecordError("undecodable", "not JSON")))
