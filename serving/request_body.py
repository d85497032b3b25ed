"""Reading a request's bytes: bounded, and refused with a 400 or 413 rather than failing later. Knows no endpoint."""

from __future__ import annotations

import json
from typing import Any, NoReturn

from starlette.requests import Request

from serving.errors import Refused
from serving.openai_body import bad_request, error_body

MAX_BYTES = 32 << 20


async def read_bytes(request: Request, max_bytes: int = MAX_BYTES) -> bytes:
    """The whole body. Raises Refused (413) beyond `max_bytes`."""
    parts: list[bytes] = []
    size = 0
    async for part in request.stream():
        size += len(part)
        if size > max_bytes:
            message = f"the request is larger than {max_bytes} bytes; send it in parts"
            raise Refused(413, error_body(message, "BadRequestError", 413))
        parts.append(part)
    return b"".join(parts)


async def read_object(request: Request) -> dict[str, Any]:
    """The body as a JSON object. Raises Refused."""
    body = parse(await read_bytes(request))
    if not isinstance(body, dict):
        raise bad_request(f"expected a JSON object, got {type(body).__name__}")
    return body


def parse(content: bytes) -> Any:
    """Strict JSON: no NaN, no infinities, no lone surrogates, which no tokenizer takes. Raises Refused."""
    try:
        value = json.loads(content, parse_constant=_refuse_constant)
        if b"\\ud" in content or b"\\uD" in content:
            json.dumps(value, ensure_ascii=False).encode()
    except (ValueError, RecursionError) as error:
        raise bad_request(f"the request is no valid JSON: {error}") from error
    return value


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is no JSON number")
