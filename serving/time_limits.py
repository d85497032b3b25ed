"""How long a request may take to come, and how long to be answered. Plain ASGI; knows no key."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Collection

from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from serving.openai_body import error_body


class TimeLimits:
    """Raises an HTTPException (408) where a body is read that does not come within `body_seconds`, and ends after
    `request_seconds` what is asked of the paths `bounded`; `count` is told the status of an answer made here."""

    def __init__(
        self,
        app: ASGIApp,
        body_seconds: float,
        request_seconds: float | None,
        bounded: Collection[str],
        count: Callable[[int], None],
    ) -> None:
        self._app, self._body_seconds, self._request_seconds = app, body_seconds, request_seconds
        self._bounded, self._count = bounded, count

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
        elif self._request_seconds is None or scope["path"] not in self._bounded:
            await self._app(scope, self._in_time(receive), send)
        else:
            await self._ended(scope, self._in_time(receive), send, self._request_seconds)

    def _in_time(self, receive: Receive) -> Receive:
        deadline = asyncio.get_running_loop().time() + self._body_seconds
        is_whole = False

        async def received() -> Message:
            nonlocal is_whole
            if is_whole:
                return await receive()
            try:
                async with asyncio.timeout_at(deadline):
                    message = await receive()
            except TimeoutError:
                said = f"the request's body has not come within {self._body_seconds:g} s; send it faster, or in parts"
                # What still comes of it is no request of its own.
                raise HTTPException(408, said, {"connection": "close"}) from None
            is_whole = message["type"] != "http.request" or not message.get("more_body", False)
            return message

        return received

    async def _ended(self, scope: Scope, receive: Receive, send: Send, seconds: float) -> None:
        begun: Message | None = None
        is_done = False

        async def passed_on(message: Message) -> None:
            nonlocal begun, is_done
            if message["type"] == "http.response.start":
                begun = message
            elif message["type"] == "http.response.body":
                is_done = not message.get("more_body", False)
            await send(message)

        try:
            async with asyncio.timeout(seconds) as limit:
                await self._app(scope, receive, passed_on)
        except TimeoutError:
            if not limit.expired():
                raise
            body = error_body(f"the answer took more than {seconds:g} s; ask for less", "GatewayTimeoutError", 504)
            if begun is None:
                self._count(504)
                await JSONResponse(body, 504)(scope, receive, send)
            elif not is_done and _is_stream(begun):
                event = f"data: {json.dumps(body)}\n\n".encode()
                await send({"type": "http.response.body", "body": event})
            # Anything else is shorter than it said, and the server closes its connection.


def _is_stream(start: Message) -> bool:
    headers = {bytes(name).lower(): bytes(value) for name, value in start.get("headers", ())}
    return headers.get(b"content-type", b"").startswith(b"text/event-stream")
