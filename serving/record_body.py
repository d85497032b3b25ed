"""Records as they are posted: one JSON object, a list of them, or one per line.

A request may hold 32 MiB of them. It is read in a thread and record by record, because a JSON reader keeps the whole
process to itself until it returns. Knows no fields: what a record must have is told behind the control port.
"""

from __future__ import annotations

import codecs
import json
import re
from collections.abc import Iterator
from typing import Any

from pydantic_core import from_json

from serving.errors import InvalidRecord, Refused
from serving.openai_body import bad_request
from serving.request_body import MAX_RECORD_BYTES, SMALL_BYTES, parse, too_large

_SPACE = re.compile(r"[ \t\n\r]*")
_SPLITTER = json.JSONDecoder()
# Of the text, in characters: more than most records take. Three times sixteenfold, it is the most one may have.
_WINDOW = 1 << 10


def read_records(content: bytes) -> list[dict[str, Any]]:
    """The records in a request's body, in order. Raises InvalidRecord or Refused; blank lines are passed over."""
    content = content.removeprefix(codecs.BOM_UTF8).strip(b" \t\r\n")
    records = [_object(position, value) for position, value in enumerate(_values(content))]
    if not records:
        raise InvalidRecord("no record in the request; send one, a list, or one per line")
    return records


def _values(content: bytes) -> Iterator[Any]:
    if len(content) > SMALL_BYTES and content.startswith(b"["):
        yield from _elements(content)
        return
    lines = [(number, line) for number, line in enumerate(content.splitlines(), 1) if line.strip()]
    if len(content) <= MAX_RECORD_BYTES:
        try:
            value = parse(content)
        except Refused:
            if len(lines) < 2:
                raise
        else:
            yield from value if isinstance(value, list) else [value]
            return
    yield from (_line(number, line) for number, line in lines)


def _elements(content: bytes) -> Iterator[Any]:
    """The elements of a JSON list, one at a time; each is read by `parse`, whatever has found its end."""
    place = 0
    try:
        text, at, mark = content.decode(), 0, ","
        while mark == ",":
            place += 1
            start = _after_space(text, at + 1)
            end = _end(text, start, place)
            yield parse(text[start:end].encode())
            at = _after_space(text, end)
            mark = text[at]
        if text[at:] != "]":
            raise ValueError("expected a comma, or the list's end and nothing after it")
    except (ValueError, IndexError, RecursionError) as error:
        where = f"at record {place}" if place else "from its first byte"
        why = "the list has no end" if isinstance(error, IndexError) else str(error)
        raise bad_request(f"the list of records is no valid JSON in UTF-8 {where}: {why}") from error


def _end(text: str, start: int, place: int) -> int:
    """Where the value that begins at `start` ends; the text is looked at as far as needed, at most `MAX_RECORD_BYTES`.

    Raises ValueError or RecursionError for what is no JSON, Refused (413) for a value that has no end until there.
    """
    size = _WINDOW
    while True:
        window = text[start : start + size]
        whole = start + size >= len(text)
        try:
            end = _SPLITTER.raw_decode(window)[1]
            if end < len(window) or whole:
                return start + end
        except ValueError:
            if whole:
                raise
        if size >= MAX_RECORD_BYTES:
            from_json(window, allow_partial="trailing-strings")
            raise _record_too_large(f"record {place}")
        size *= 16


def _after_space(text: str, at: int) -> int:
    match = _SPACE.match(text, at)
    return match.end() if match else at


def _object(position: int, value: Any) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise InvalidRecord(f"record {position}: expected a JSON object, got {type(value).__name__}")
    return value


def _line(number: int, line: bytes) -> Any:
    if len(line) > MAX_RECORD_BYTES:
        raise _record_too_large(f"line {number}")
    try:
        return parse(line)
    except Refused as error:
        raise InvalidRecord(f"line {number}: {error}") from error


def _record_too_large(which: str) -> Refused:
    return too_large(f"{which}: expected a record of at most {MAX_RECORD_BYTES} bytes, got more; nothing was written")
