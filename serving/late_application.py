"""An application that is given to Serve before there is one: it leads to what is put in its place once the engine runs.

Plain ASGI; it knows neither Ray nor what it leads to.
"""

from __future__ import annotations

import asyncio

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from serving.gateway import ELSEWHERE, TAKEN, answer

_SAID_AFTER_S = 0.5
"""Seconds after which a replica says that it has begun, where it has not answered by then: a message more costs up to a
quarter of what the whole request does in proxy and replica."""


class LateApplication:
    """Leads to `inner`; while that is None, requests are told that another replica may answer."""

    def __init__(self) -> None:
        self.inner: ASGIApp | None = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if self.inner is not None and TAKEN in (scope.get("extensions") or {}):
            await _said(self.inner, scope, receive, send)
        elif self.inner is not None:
            await self.inner(scope, receive, send)
        elif scope["type"] == "lifespan":
            await _lifespan(receive, send)
        elif scope["type"] == "websocket":
            await send({"type": "websocket.close"})
        else:
            for message in answer(503, "this replica is starting; come again in a moment", ELSEWHERE):
                await send(message)


async def _lifespan(receive: Receive, send: Send) -> None:
    while True:
        message = await receive()
        await send({"type": f"{message['type']}.complete"})
        if message["type"] == "lifespan.shutdown":
            return


async def _said(application: ASGIApp, scope: Scope, receive: Receive, send: Send) -> None:
    """Let the application answer; say that it has begun where it takes longer."""
    saying: list[asyncio.Task[None]] = []

    def say() -> None:
        saying.append(loop.create_task(_say(send)))

    async def passed_on(message: Message) -> None:
        timer.cancel()
        await send(message)

    loop = asyncio.get_running_loop()
    timer = loop.call_later(_SAID_AFTER_S, say)
    try:
        await application(scope, receive, passed_on)
    finally:
        timer.cancel()


async def _say(send: Send) -> None:
    await send({"type": TAKEN})
