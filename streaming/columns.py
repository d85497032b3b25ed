"""Which columns of a row are what: the question, the answer and the domain of an example.

Rows of this system's own layouts are read whole, as `records` reads them. Of others the columns are named, or known by
the names that data sets often give them, and the rest is left out. It does not know how a file is read.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from streaming.errors import RecordError
from streaming.records import EndOfDomain, Split, TaskRecord, from_mapping
from streaming.rows import SPLITS, Row

QUESTIONS = (("prompt",), ("messages",), ("instruction", "input"), ("input",), ("question",), ("instruction",))
"""Columns of the question that are taken where none is named: the first of these that a row has."""
ANSWERS = ("completion", "output", "answer", "response")
"""Columns of the answer, likewise; a conversation may end with its answer instead."""
DOMAINS = ("domain", "task")
"""Columns of the domain, likewise."""

_OWN = ((("prompt",), "completion"), (("messages",), "completion"), (("input",), "output"))
_OWN_NAMES = frozenset({"prompt", "messages", "completion", "task", "input", "output"})
_ROW = frozenset({"task", "input", "output"})


@dataclass(frozen=True)
class Columns:
    """What was named: the columns of question (several are joined by a blank line), answer, domain and id; or one
    domain for all rows, whatever theirs. What is left empty is known by the names above; an id is made of the content.
    """

    question: tuple[str, ...] = ()
    answer: str | None = None
    domain_column: str | None = None
    domain: str | None = None
    id: str | None = None

    def record(self, row: Row) -> TaskRecord | EndOfDomain:
        """The record that a row is. Raises RecordError naming the row's place and, where some lack, its columns."""
        try:
            if isinstance(row.values, RecordError):
                raise row.values
            record = from_mapping(self._fields(row.values, row))
            if isinstance(record, TaskRecord) and record.domain is None:
                wanted = self.domain_column or " or ".join(DOMAINS)
                remedy = "name its column with --domain-column, or one domain for all with --domain"
                raise RecordError("unlabelled", f"no domain in column {wanted}, {_got(row.values)}; {remedy}")
        except RecordError as error:
            raise RecordError(error.reason, f"{row.where}: {error.message}") from None
        return record

    def _fields(self, values: Mapping[str, Any], row: Row) -> dict[str, Any]:
        question, answer = self._found(values)
        if not row.table and self._is_own(values, question, answer):
            return self._own(values, row.split)
        if question is None or (answer is None and not _is_chat(values, question)):
            raise RecordError(
                "bad-record",
                f"expected columns of a question and its answer, {_got(values)}; name them with --input-column and "
                "--output-column",
            )
        fields = self._conversation(values, question, answer)
        fields |= {"domain": self._domain(values), "split": _split(values, row.split)}
        if self.id is not None:
            fields["id"] = _text(values, self.id)
        return fields

    def _found(self, values: Mapping[str, Any]) -> tuple[tuple[str, ...] | None, str | None]:
        """The columns of question and answer. Raises RecordError where one that was named is not there."""
        named = (*self.question, self.answer, self.domain_column, self.id)
        if missing := [name for name in named if name is not None and name not in values]:
            raise RecordError("bad-record", f"no column {missing[0]!r}, {_got(values)}")
        answer = self.answer or next((name for name in ANSWERS if name in values), None)
        if self.question:
            return self.question, answer if self.answer or not _is_chat(values, self.question) else None
        if answer is None and "messages" in values:
            return ("messages",), None
        return next((each for each in QUESTIONS if set(each) <= values.keys()), None), answer

    def _is_own(self, values: Mapping[str, Any], question: tuple[str, ...] | None, answer: str | None) -> bool:
        if self.question or self.answer:
            return False
        if "kind" in values:
            return True
        if question is not None and (answer is not None or question == ("messages",)):
            return (question, answer) in _OWN
        return not _OWN_NAMES.isdisjoint(values)

    def _own(self, values: Mapping[str, Any], split: Split | None) -> dict[str, Any]:
        """The row as it is, but for what was named otherwise."""
        fields = dict(values)
        marker = "kind" in fields
        key = "task" if not marker and not _ROW.isdisjoint(fields) else "domain"
        if self.domain or self.domain_column or fields.get(key) is None:
            domain = self._domain(values)
            for name in (self.domain_column, *DOMAINS):
                fields.pop(name or "", None)
            fields[key] = domain
        if self.id is not None:
            fields["id"] = _text(values, self.id)
            fields.pop(self.id if self.id != "id" else "", None)
        if not marker and fields.get("split") is None:
            fields["split"] = split
        return fields

    def _conversation(self, values: Mapping[str, Any], question: tuple[str, ...], answer: str | None) -> dict[str, Any]:
        fields: dict[str, Any] = {}
        if _is_chat(values, question):
            turns = [_turn(turn) for turn in values[question[0]]]
            last = turns[-1] if turns else None
            if answer is None and isinstance(last, dict) and last.get("role") == "assistant":
                fields["completion"] = last.get("content")
                turns.pop()
            fields["messages"] = turns
        else:
            asked = (_text(values, name) for name in question)
            fields["prompt"] = "\n\n".join(text for text in asked if text and text.strip()) or None
        if answer is not None:
            fields["completion"] = _text(values, answer)
        return fields

    def _domain(self, values: Mapping[str, Any]) -> str | None:
        if self.domain is not None:
            return self.domain
        names = (self.domain_column,) if self.domain_column else DOMAINS
        found = (_text(values, name) for name in names if values.get(name) is not None)
        return next((name.lower() for name in found if name), None)


def _is_chat(values: Mapping[str, Any], question: tuple[str, ...]) -> bool:
    return len(question) == 1 and isinstance(values[question[0]], list)


def _got(values: object) -> str:
    names = list(values) if isinstance(values, Mapping) else []
    return "got " + (", ".join(str(name)[:40] for name in names[:20]) or "an empty row")


def _split(values: Mapping[str, Any], split: Split | None) -> Split | None:
    """The row's own, where it has one that is known; else its file's."""
    own = values.get("split")
    return SPLITS.get(own.lower(), split) if isinstance(own, str) else split


def _text(values: Mapping[str, Any], name: str) -> str | None:
    """Text as it is, whole numbers in digits, None where there is nothing."""
    value = values[name]
    if value is None or isinstance(value, str):
        return value
    if isinstance(value, int) and not isinstance(value, bool):
        return str(value)
    raise RecordError("bad-record", f"column {name!r}: expected text, got {type(value).__name__}")


def _turn(turn: object) -> object:
    """A turn without what is null in it: that is how a table puts what a turn has not."""
    return {key: value for key, value in turn.items() if value is not None} if isinstance(turn, dict) else turn
