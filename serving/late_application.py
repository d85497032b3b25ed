"""An application that is given to Serve before there is one: it leads to what is put in its place once the engine runs.

Plain ASGI; it knows neither Ray nor what it leads to.
"""

from __future__ import annotations

from starlette.types import ASGIApp, Receive, Scope, Send

from serving.gateway import ELSEWHERE, TAKEN, answer


class LateApplication:
    """Leads to `inner`; while that is None, requests are told that another replica may answer."""

    def __init__(self) -> None:
        self.inner: ASGIApp | None = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if TAKEN in (scope.get("extensions") or {}):
            await send({"type": TAKEN})
        if self.inner is not None:
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
