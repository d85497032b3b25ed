"""Server-sent events as a response. Knows nothing of what they tell."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from typing import Protocol

from fastapi.responses import StreamingResponse
from starlette.types import Receive, Scope, Send


class Events(Protocol):
    """Events that must be closed, also when none was asked for."""

    def __aiter__(self) -> AsyncIterator[str]: ...

    async def aclose(self) -> None: ...


class EventStream(StreamingResponse):
    """Server-sent events that are closed however the response ends: sent, failed, or the client gone."""

    media_type = "text/event-stream"

    def __init__(self, events: Events, headers: Mapping[str, str] | None = None) -> None:
        # Proxies that buffer would turn a stream into one late answer.
        super().__init__(events, headers={"cache-control": "no-cache", "x-accel-buffering": "no", **(headers or {})})
        self._events = events

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await super().__call__(scope, receive, send)
        finally:
            await self._events.aclose()
