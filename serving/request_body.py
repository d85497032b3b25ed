"""Reading a request: bounded, well-formed, and refused with a 400 or 413 rather than failing later.

Every text that gets in is Unicode in UTF-8, whichever way it comes: body, target or header. Knows no endpoint.
"""

from __future__ import annotations

import asyncio
import codecs
import json
import re
from collections.abc import Callable
from typing import Any, TypeVar
from urllib.parse import unquote_to_bytes

from pydantic_core import from_json
from starlette.requests import Request

from serving.errors import Refused
from serving.openai_body import bad_request, error_body, without_nulls
from serving.options import MOST_PARTS

T = TypeVar("T")

MAX_BYTES = 2 << 20
"""Of a request's body, to generate, to route or to command."""
MAX_RECORDS_BYTES = 32 << 20
"""Of records."""
MAX_RECORD_BYTES = 4 << 20
"""Of one record among them, as JSON: the parser keeps the whole process to itself until it has read one."""
SMALL_BYTES = 64 << 10
"""A body up to here is parsed on the event loop, in less time than handing it to a thread is worth."""

# Where a number may be beyond float64, which the reader turns to infinity: a large exponent, or very many digits. Each
# run of digits is looked at from its beginning only, so that looking takes linear time.
_BEYOND = re.compile(rb"[eE]\+?\d{3}|(?<!\d)\d{300}")
_LONGEST_MATCH = 300
_REQUEST_ID = re.compile(r"[!-~]{1,128}")


async def well_formed_target(request: Request) -> None:
    """Refuse a path or a query whose bytes, percent signs resolved, are no UTF-8."""
    for part in (request.scope.get("raw_path") or b"", request.scope["query_string"]):
        try:
            unquote_to_bytes(part).decode()
        except UnicodeDecodeError as error:
            raise bad_request(f"the request's target is no UTF-8: {error.reason}") from error


async def read_bytes(request: Request, max_bytes: int = MAX_BYTES) -> bytes:
    """The whole body. Raises Refused (413) beyond `max_bytes`: by the length it states, before it is read."""
    stated = request.headers.get("content-length", "")
    if stated.isascii() and stated.isdigit() and int(stated[:20]) > max_bytes:
        raise _too_large(request, max_bytes, stated[:20])
    parts: list[bytes] = []
    size = 0
    async for part in request.stream():
        size += len(part)
        if size > max_bytes:
            raise _too_large(request, max_bytes, "more")
        parts.append(part)
    return b"".join(parts)


async def read_object(request: Request) -> dict[str, Any]:
    """The body as a JSON object, without the fields that are null. Raises Refused."""
    body = await aside(parse, await read_bytes(request))
    if not isinstance(body, dict):
        raise bad_request(f"expected a JSON object, got {type(body).__name__}")
    return without_nulls(body)


async def aside(read: Callable[[bytes], T], content: bytes) -> T:
    """`read(content)`; off the event loop where that may take long."""
    return read(content) if len(content) <= SMALL_BYTES else await asyncio.to_thread(read, content)


def parse(content: bytes) -> Any:
    """Strict JSON in UTF-8: no lone surrogates, no NaN, no infinities, bounded nesting. Raises Refused."""
    try:
        value = from_json(content.removeprefix(codecs.BOM_UTF8), allow_inf_nan=False)
        if _may_be_beyond(content):
            json.dumps(value, allow_nan=False)
    except ValueError as error:
        raise bad_request(f"the request is no valid JSON in UTF-8: {error}") from error
    return value


def _may_be_beyond(content: bytes) -> bool:
    """Piece by piece: a search keeps the whole process to itself until it returns."""
    pieces = range(0, len(content), SMALL_BYTES)
    return any(_BEYOND.search(content, at, at + SMALL_BYTES + _LONGEST_MATCH) for at in pieces)


def request_id(request: Request, body: dict[str, Any]) -> str | None:
    """The name that a client gives its request, in the body or else in the header. Raises Refused."""
    name = body.get("request_id", request.headers.get("x-request-id"))
    if name is None or (isinstance(name, str) and _REQUEST_ID.fullmatch(name)):
        return name
    raise bad_request(
        "a request id has 1 to 128 characters of ASCII, without spaces or control characters", "request_id"
    )


def limit(request: Request, usual: int, most: int) -> int:
    """How many the query asks for."""
    asked = request.query_params.get("limit", str(usual))
    if not (asked.isascii() and asked.isdigit() and 1 <= int(asked[:9]) <= most):
        raise bad_request(f"expected a limit from 1 to {most}", "limit")
    return int(asked)


def session_name(request: Request) -> str | None:
    """The chat that a client says the request belongs to. Raises Refused."""
    name = request.headers.get("x-anabranch-session")
    if name is None or _REQUEST_ID.fullmatch(name):
        return name
    raise bad_request("x-anabranch-session has 1 to 128 characters of ASCII, without spaces or control characters")


def top_k(request: Request) -> int | None:
    """How many domains may answer as one, where a client says so. Raises Refused."""
    said = request.headers.get("x-anabranch-top-k")
    if said is None:
        return None
    if said in map(str, range(1, MOST_PARTS + 1)):
        return int(said)
    raise bad_request(f"x-anabranch-top-k: expected 1 to {MOST_PARTS}, got {said[:20]!r}")


def _too_large(request: Request, max_bytes: int, got: str) -> Refused:
    return too_large(
        f"{request.method} {request.url.path} takes at most {max_bytes} bytes, got {got}; send it in parts"
    )


def too_large(message: str) -> Refused:
    return Refused(413, error_body(message, "RequestEntityTooLargeError", 413))
