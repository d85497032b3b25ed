"""What travels on the stream: a labelled example (`TaskRecord`), and the marker that a domain is complete.

Everything here is checked strictly and once, at the border: inside the system a `TaskRecord` is right by construction.
`from_mapping` is the one reading of a record, whichever way it comes: broker, file or HTTP. Null means absent in every
field of a record, a message, a marker and a row, and a byte order mark before JSON is passed over.
This module does not know content types or brokers (`wire`, `source`), nor prompts' templates: a record keeps what the
sender wrote.
"""

from __future__ import annotations

import hashlib
import json
import math
import re
from codecs import BOM_UTF8
from collections.abc import Iterator, Mapping
from datetime import datetime
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    Strict,
    ValidationError,
    model_validator,
)
from pydantic_core import PydanticCustomError, from_json

from streaming.errors import Reason, RecordError, StreamError

Split = Literal["train", "test"]

RESERVED_DOMAINS = frozenset({"auto", "base"})
"""Names a client may ask for as `model` that are no domain."""

MAX_META_DEPTH = 8
"""Levels of lists and objects within `meta`."""

MAX_MESSAGES = 1_000

_SLUG = re.compile(r"[a-z0-9][a-z0-9_-]{0,62}")
_RFC_3339 = re.compile(r"\d{4}-\d\d-\d\d[Tt ]\d\d:\d\d:\d\d(\.\d+)?([Zz]|[+-]\d\d:\d\d)")
_CONTROL = re.compile(r"[\x00-\x1f\x7f]")
_ROW = frozenset({"task", "input", "output"})
_CONVERSATION = ("prompt", "messages", "completion")
_INT64_MIN, _UINT64_MAX = -(2**63), 2**64 - 1


def is_domain(value: str) -> bool:
    """Whether this names a domain: a slug that is not reserved."""
    return _SLUG.fullmatch(value) is not None and value not in RESERVED_DOMAINS


def is_instant(value: str) -> bool:
    """Whether this is an RFC 3339 time with an offset."""
    try:
        _instant(value)
    except PydanticCustomError:
        return False
    return True


def _domain(value: str) -> str:
    if not _SLUG.fullmatch(value):
        raise PydanticCustomError(
            "domain", "expected a slug [a-z0-9][a-z0-9_-]{0,62}, got {value}", {"value": repr(value[:80])}
        )
    if value in RESERVED_DOMAINS:
        raise PydanticCustomError("domain", "the name {value} is reserved; choose another", {"value": repr(value)})
    return value


def _unicode(value: str) -> str:
    """Refuse lone surrogates, which some JSON readers let through: they could not be encoded again."""
    try:
        value.encode()
    except UnicodeEncodeError:
        raise PydanticCustomError("unicode", "holds a lone surrogate, which is not Unicode text") from None
    return value


def _not_blank(value: str) -> str:
    if not value.strip():
        raise PydanticCustomError("blank", "expected text, got only white space")
    return value


def _record_id(value: str) -> str:
    if _CONTROL.search(value):
        raise PydanticCustomError("id", "expected an id without control characters")
    return value


def _instant(value: object) -> object:
    """RFC 3339 text to an aware datetime; pydantic's own reading of numbers and naive times is not accepted."""
    if isinstance(value, str):
        if not _RFC_3339.fullmatch(value):
            raise PydanticCustomError("instant", "expected an RFC 3339 time with an offset")
        try:
            return datetime.fromisoformat(value.upper())
        except ValueError as error:
            raise PydanticCustomError("instant", "expected an RFC 3339 time: {why}", {"why": str(error)}) from None
    if isinstance(value, datetime) and value.tzinfo is None:
        raise PydanticCustomError("instant", "expected a time with an offset, got a naive one")
    return value


def _check_plain(value: object, depth: int) -> None:
    """Refuse what JSON and msgpack can't both carry, or what is nested without end."""
    if depth > MAX_META_DEPTH:
        raise PydanticCustomError("meta", "nested deeper than {limit} levels", {"limit": MAX_META_DEPTH})
    if value is None or isinstance(value, bool):
        return
    if isinstance(value, str):
        _unicode(value)
    elif isinstance(value, int):
        if not _INT64_MIN <= value <= _UINT64_MAX:
            raise PydanticCustomError("meta", "holds an integer beyond 64 bits")
    elif isinstance(value, float):
        if not math.isfinite(value):
            raise PydanticCustomError("meta", "holds a number that is not finite")
    elif isinstance(value, Mapping):
        for key, inner in value.items():
            if not isinstance(key, str):
                raise PydanticCustomError("meta", "holds a key that is no string")
            _unicode(key)
            _check_plain(inner, depth + 1)
    elif isinstance(value, list):
        for inner in value:
            _check_plain(inner, depth + 1)
    else:
        kind = type(value).__name__
        raise PydanticCustomError("meta", "holds a value of type {kind}, which JSON has not", {"kind": kind})


def _meta(value: dict[str, Any]) -> dict[str, Any]:
    _check_plain(value, 0)
    return value


Domain = Annotated[str, AfterValidator(_domain)]
Text = Annotated[str, AfterValidator(_unicode)]
Said = Annotated[Text, AfterValidator(_not_blank)]


class _Strict(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)

    @model_validator(mode="before")
    @classmethod
    def _without_nulls(cls, value: object) -> object:
        return _present(value) if isinstance(value, Mapping) else value


class Message(_Strict):
    """One turn of a conversation."""

    role: Literal["system", "developer", "user", "assistant", "tool"]
    content: Text


class TaskRecord(_Strict):
    """One labelled example: what was asked, what the answer should be, and which domain it belongs to.

    Exactly one of `prompt` and `messages` is set. `id` names the example for good: a resent record carries the same one
    and counts once. Without an id on the wire it is `content_id` of the rest, so two equal examples are one.
    Raises pydantic's ValidationError; from outside use `from_mapping`, which raises `RecordError`.
    """

    id: Annotated[str, Field(min_length=1, max_length=200), AfterValidator(_unicode), AfterValidator(_record_id)] = ""
    domain: Domain | None = None
    prompt: Said | None = None
    messages: Annotated[tuple[Message, ...], Field(min_length=1, max_length=MAX_MESSAGES), Strict(False)] | None = None
    completion: Said
    split: Split | None = None
    created_at: Annotated[datetime, BeforeValidator(_instant)] | None = None
    meta: Annotated[dict[str, Any], AfterValidator(_meta)] = Field(default_factory=dict)

    def model_post_init(self, _context: object) -> None:
        if (self.prompt is None) == (self.messages is None):
            got = "neither" if self.prompt is None else "both"
            raise PydanticCustomError("one_of", "expected either 'prompt' or 'messages', got {got}", {"got": got})
        if not self.id:
            # The one moment a frozen record is written to: before anyone else has seen it.
            object.__setattr__(self, "id", content_id(self))

    def messages_or_prompt(self) -> list[dict[str, str]]:
        """The conversation to complete; a bare prompt is one user message."""
        if self.messages is not None:
            return [{"role": message.role, "content": message.content} for message in self.messages]
        return [{"role": "user", "content": self.prompt or ""}]

    def to_mapping(self) -> dict[str, Any]:
        """The record as plain values, absent fields left out: what `from_mapping` reads back as an equal record."""
        plain: dict[str, Any] = {"id": self.id, "domain": self.domain}
        if self.prompt is not None:
            plain["prompt"] = self.prompt
        else:
            plain["messages"] = self.messages_or_prompt()
        plain["completion"] = self.completion
        if self.split is not None:
            plain["split"] = self.split
        if self.created_at is not None:
            plain["created_at"] = self.created_at.isoformat()
        if self.meta:
            plain["meta"] = self.meta
        return plain


class EndOfDomain(_Strict):
    """The marker after a domain's last record. It stands in every partition, behind what its sender wrote before."""

    kind: Literal["end_of_domain"] = "end_of_domain"
    domain: Domain

    def to_mapping(self) -> dict[str, Any]:
        """The marker as plain values."""
        return {"kind": self.kind, "domain": self.domain}


Checked = TypeVar("Checked", TaskRecord, EndOfDomain)


def content_id(record: TaskRecord) -> str:
    """128 bits of SHA-256 over (domain, conversation, completion, split), as hex: equal examples get equal ids."""
    content = [record.domain, record.messages_or_prompt(), record.completion, record.split]
    canonical = json.dumps(content, ensure_ascii=False, separators=(",", ":"), sort_keys=True)
    return hashlib.sha256(canonical.encode()).hexdigest()[:32]


def from_mapping(plain: object, *, split: Split | None = None) -> TaskRecord | EndOfDomain:
    """A record or marker from plain values (parsed JSON or msgpack), in either layout: this system's own, or a row
    `{task, input, output, ...}`, which `from_row` explains and which `split` is for.

    A row is told by any of `task`, `input` and `output`. One that has a field of the other layout as well (`prompt`,
    `messages` or `completion`) is refused, since it would ask or answer twice. Raises RecordError with a one-line
    message.
    """
    if not isinstance(plain, Mapping):
        raise RecordError("bad-record", f"expected an object with the fields of a record, got {type(plain).__name__}")
    fields = _present(plain)
    kind = fields.get("kind")
    if kind != "end_of_domain" and not _ROW.isdisjoint(fields):
        return from_row(fields, split=split)
    return _checked(TaskRecord, fields) if kind is None else _checked(EndOfDomain, fields)


def from_row(row: Mapping[str, Any], *, split: Split | None = None) -> TaskRecord:
    """A record from a row `{task, input, output, ...}`, the layout of many instruction data sets.

    The task's name is lower-cased into a slug. `id`, `split` and `created_at` keep their meaning, further columns go to
    `meta`; `split` is for rows without one. Raises RecordError.
    """
    rest = _present(row)
    mixed = [name for name in _CONVERSATION if name in rest]
    if mixed:
        raise RecordError(
            "bad-record",
            f"a row {{task, input, output}} with a field {mixed[0]!r}; send either a row, or a record"
            " {domain, prompt, completion}",
        )
    task = rest.pop("task", None)
    fields: dict[str, Any] = {
        "domain": task.lower() if isinstance(task, str) else task,
        "prompt": rest.pop("input", None),
        "completion": rest.pop("output", None),
        "split": rest.pop("split", split),
    }
    for known in ("id", "created_at"):
        if known in rest:
            fields[known] = rest.pop(known)
    meta = rest.pop("meta", {})
    fields["meta"] = {**meta, **rest} if isinstance(meta, Mapping) else meta
    return _checked(TaskRecord, fields)


def read_jsonl(path: Path, *, split: Split | None = None) -> Iterator[TaskRecord | EndOfDomain]:
    """Records of a JSON Lines file, in either layout: this system's or rows `{task, input, output}`.

    Blank lines are passed over, and so is a byte order mark before the first or any other line. `split` is for rows
    without one. Raises RecordError naming `file:line`, and StreamError where the file can't be read.
    """
    try:
        with path.open("rb") as lines:
            for number, line in enumerate(lines, start=1):
                if line.removeprefix(BOM_UTF8).strip():
                    yield _read_line(line, f"{path}:{number}", split)
    except OSError as error:
        raise StreamError(f"cannot read records from {path}: {error.strerror}; give a JSON Lines file") from error


def parse_json(value: bytes) -> object:
    """Parsed JSON: UTF-8 with or without a byte order mark, no NaN or Infinity, bounded nesting. Raises
    RecordError("undecodable")."""
    try:
        return from_json(value.removeprefix(BOM_UTF8), allow_inf_nan=False)
    except ValueError as error:
        raise RecordError("undecodable", f"not JSON: {_one_line(str(error))}") from None


def _read_line(line: bytes, where: str, split: Split | None) -> TaskRecord | EndOfDomain:
    try:
        return from_mapping(parse_json(line), split=split)
    except RecordError as error:
        raise RecordError(error.reason, f"{where}: {error.message}") from None


def _present(plain: Mapping[str, Any]) -> dict[str, Any]:
    """The fields that are there: null means absent."""
    return {name: value for name, value in plain.items() if value is not None}


def _checked(kind: type[Checked], fields: Mapping[str, Any]) -> Checked:
    try:
        return kind.model_validate(fields)
    except ValidationError as error:
        raise _record_error(error) from None


def _record_error(error: ValidationError) -> RecordError:
    """The first thing that is wrong, as one line: which field, what was expected."""
    first = error.errors(include_url=False, include_input=True, include_context=False)[0]
    # A union's branch tags and the like carry no meaning to a sender; field names and positions do.
    field = ".".join(str(part) for part in first["loc"])
    root = first["loc"][0] if first["loc"] else ""
    if first["type"] == "extra_forbidden":
        return RecordError("bad-record", f"unknown field {_clip(field)!r}; put further facts under 'meta'")
    reason: Reason = "bad-record"
    if root == "domain":
        reason = "bad-domain"
    elif root == "completion" and (first["type"] in ("missing", "blank") or first["input"] is None):
        reason = "empty-completion"
    place = f"field {_clip(field)!r}: " if field else ""
    return RecordError(reason, place + _one_line(first["msg"]))


def _clip(text: str) -> str:
    return text if len(text) <= 80 else text[:77] + "..."


def _one_line(text: str) -> str:
    """One line of bounded length that can always be encoded, whatever the sender put into the record."""
    return " ".join(text.encode(errors="replace").decode().split())[:300]
