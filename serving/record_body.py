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

from serving.errors import InvalidRecord, Refused
from serving.openai_body import bad_request
from serving.request_body import SMALL_BYTES, parse

_SPACE = re.compile(r"[ \t\n\r]*")
_SPLITTER = json.JSONDecoder()


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
    try:
        value = parse(content)
    except Refused:
        lines = [(number, line) for number, line in enumerate(content.splitlines(), 1) if line.strip()]
        if len(lines) < 2:
            raise
        yield from (_line(number, line) for number, line in lines)
        return
    if isinstance(value, list):
        yield from value
    else:
        yield value


def _elements(content: bytes) -> Iterator[Any]:
    """The elements of a JSON list, one at a time; each is read by `parse`, whatever has found its end."""
    try:
        text, at, mark = content.decode(), 0, ","
        while mark == ",":
            start = _after_space(text, at + 1)
            end = _SPLITTER.raw_decode(text, start)[1]
            yield parse(text[start:end].encode())
            at = _after_space(text, end)
            mark = text[at]
        if text[at:] != "]":
            raise ValueError
    except (ValueError, IndexError, RecursionError) as error:
        parse(content)  # The one reader says what is wrong with it.
        raise bad_request("the list of records is no valid JSON in UTF-8") from error


def _after_space(text: str, at: int) -> int:
    match = _SPACE.match(text, at)
    return match.end() if match else at


def _object(position: int, value: Any) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise InvalidRecord(f"record {position}: expected a JSON object, got {type(value).__name__}")
    return value


def _line(number: int, line: bytes) -> Any:
    try:
        return parse(line)
    except Refused as error:
        raise InvalidRecord(f"line {number}: {error}") from error
