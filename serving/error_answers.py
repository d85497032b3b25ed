"""Every error as an answer: OpenAI's form, a status, and words that may leave the system.

This is the one place where an error becomes an answer. Knows no endpoint.
"""

from __future__ import annotations

import logging
import uuid
from collections.abc import Callable, Mapping
from typing import Any

from fastapi import FastAPI, Request, Response
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect

from registry.key_form import masked
from serving.errors import ControlUnavailable, InvalidRecord, Refused, ServingError, Unavailable, UnknownName
from serving.openai_body import error_body
from serving.wording import plain

RETRY_AFTER = {"retry-after": "1"}

_LOG = logging.getLogger(__name__)
_KINDS = {404: "NotFoundError", 408: "RequestTimeoutError", 500: "InternalServerError", 503: "ServiceUnavailableError"}


def add_error_answers(app: FastAPI, count: Callable[[int], None]) -> None:
    """Map everything that a path may raise; `count` is told the status of each."""

    def answer(status: int, body: Mapping[str, Any], headers: Mapping[str, str] | None = None) -> JSONResponse:
        count(status)
        more = RETRY_AFTER if status == 503 else {}
        return JSONResponse(_with_plain_words(body), status, {**(headers or {}), **more})

    def told(status: int, message: str, headers: Mapping[str, str] | None = None) -> JSONResponse:
        return answer(status, error_body(message, _KINDS.get(status, "BadRequestError"), status), headers)

    def unexpected(request: Request, error: Exception) -> JSONResponse:
        reference = uuid.uuid4().hex[:12]
        _LOG.error("%s %r failed, reference %s", request.method, masked(request.url.path), reference, exc_info=error)
        return told(500, f"something failed in the server; its log tells what, under the reference {reference}")

    @app.exception_handler(Refused)
    async def refused(request: Request, error: Refused) -> JSONResponse:
        if error.status == 500:
            return unexpected(request, error)
        return answer(error.status, error.body)

    @app.exception_handler(ServingError)
    async def failed(request: Request, error: ServingError) -> JSONResponse:
        if isinstance(error, (Unavailable, ControlUnavailable)):
            return told(503, str(error))
        if isinstance(error, InvalidRecord):
            return told(400, str(error))
        if isinstance(error, UnknownName):
            return told(404, str(error))
        return unexpected(request, error)

    @app.exception_handler(HTTPException)
    async def http_error(_: Request, error: HTTPException) -> JSONResponse:
        return told(error.status_code, str(error.detail), error.headers)

    @app.exception_handler(ClientDisconnect)
    async def gone(_: Request, error: ClientDisconnect) -> Response:
        return Response(status_code=499)

    @app.exception_handler(Exception)
    async def failed_otherwise(request: Request, error: Exception) -> JSONResponse:
        return unexpected(request, error)


def _with_plain_words(body: Mapping[str, Any]) -> dict[str, Any]:
    """An engine's own body may be of a form of its own; its message is passed on in any case.

    A field's name is in the client's own words, at any length.
    """
    error = body.get("error")
    if not isinstance(error, Mapping):
        return dict(body)
    told = {name: plain(value) if isinstance(value, str) else value for name, value in error.items()}
    return {**body, "error": {**told, "message": plain(str(error.get("message") or "")) or "no more is known"}}
