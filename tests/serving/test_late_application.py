"""What Serve is given before there is an application: it answers until there is, and says that it has begun."""

from __future__ import annotations

import asyncio
import json
from typing import Any

from starlette.types import Receive, Scope, Send

from serving.gateway import ELSEWHERE, TAKEN
from serving.late_application import LateApplication


async def _asked(application: LateApplication, scope: str, **more: Any) -> list[dict[str, Any]]:
    sent: list[dict[str, Any]] = []

    async def send(message: Any) -> None:
        sent.append(message)

    await asyncio.wait_for(application({"type": scope, **more}, asyncio.Queue().get, send), 5)  # type: ignore[arg-type]
    return sent


async def test_a_replica_that_is_not_there_yet_says_so_in_openai_form() -> None:
    start, body = await _asked(LateApplication(), "http")
    headers = dict(start["headers"])
    assert start["status"] == 503 and int(headers[b"retry-after"]) > 0 and ELSEWHERE.encode() in headers
    assert headers[b"content-type"] == b"application/json" and int(headers[b"content-length"]) == len(body["body"])
    error = json.loads(body["body"])["error"]
    assert error["code"] == 503 and error["type"] == "ServiceUnavailableError" and error["message"]
    assert await _asked(LateApplication(), "websocket") == [{"type": "websocket.close"}]


async def test_it_leads_to_what_was_put_in_its_place_and_says_that_it_has_begun_where_that_takes_long() -> None:
    seconds = 0.0

    async def inner(scope: Scope, receive: Receive, send: Send) -> None:
        await asyncio.sleep(seconds)
        await send({"type": "http.response.start", "status": 200})

    application = LateApplication()
    application.inner = inner
    start = {"type": "http.response.start", "status": 200}
    assert await _asked(application, "http", extensions={TAKEN: {}}) == [start]
    seconds = 1.0
    assert await _asked(application, "http", extensions={TAKEN: {}}) == [{"type": TAKEN}, start]
    # Who has not asked for it would not know what it is.
    assert await _asked(application, "http", extensions={}) == [start]
    assert await _asked(application, "http") == [start]
