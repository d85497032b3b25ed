"""The outermost layer of HTTP: what a lost replica leaves undone is tried elsewhere, or answered in OpenAI's form.

    client -> Serve's proxy: Gateway -> a replica      taken     the replica has begun: it is waited for, however long
                                                    no end    it is gone, and with it the request

A request of which no byte has gone back yet is tried again where doing it twice does no harm. A stream that is cut ends
with an error event. What no replica takes is told so after a while: never a hang, never a page of Serve's.

Pure ASGI around whatever application it is given, as it runs in each of Serve's proxies, whose processes import little:
it knows the paths and the form of errors, nothing of the service behind them, and not Ray.
"""

from __future__ import annotations

import asyncio
import json
import logging
import math
from collections.abc import Callable, Iterable
from typing import Any

from starlette.middleware import Middleware
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from registry.key_form import masked

TAKEN = "anabranch.taken"
"""The message by which a replica says that it has begun, where the answer takes long and the request's scope names it
among its extensions."""
ELSEWHERE = "x-anabranch-elsewhere"
"""The header of an answer that another replica would have given otherwise."""

_REPEATABLE = ("/v1/chat/completions", "/v1/completions", "/v1/route")
"""What may be posted twice and done twice, as nothing stays of it."""
_COUNTED_ONCE = "/v1/records"
_HEALTH = ("/healthz", "/readyz")
_KEPT_BYTES = 4 << 20
"""Of a body, to be sent again: more than those paths take."""
_PAUSES = (0.25, 3.5)
"""Seconds before each further try: another replica takes it at once, or Serve has noticed by then that this one is no
good (`cluster.frontdoor` has it look every second, and three times make it sure)."""
_PATIENCE_S, _SHORT_S, _LONGEST_S = 10.0, 3.0, 60.0
"""Seconds that a request waits for a replica to take it: where none works for this proxy; where the request before it
waited in vain; where they are only busy."""

_LOG = logging.getLogger(__name__)


def middlewares() -> list[Middleware]:
    """What Serve's proxies put around themselves (`RAY_SERVE_HTTP_PROXY_CALLBACK_IMPORT_PATH`)."""
    return [Middleware(Gateway)]


class Gateway:
    """What stands around one proxy."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app
        self._at_work = 0
        """Requests that replicas have taken and not ended."""
        self._last_seen = -math.inf
        """When the last of them ended, by the loop's clock."""
        self._deserted = False
        """Whether the last request that waited for a replica waited in vain."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["path"].startswith("/-/"):
            await self._app(scope, receive, send)
            return
        scope = {**scope, "extensions": {**(scope.get("extensions") or {}), TAKEN: {}}}
        body = _Body(receive)
        try:
            for pause in (*_PAUSES, None):
                attempt = _Attempt(send)
                await self._try(scope, body, attempt)
                if attempt.ended or body.gone:
                    return
                if pause is None or not (attempt.lost and _is_repeatable(scope) and body.kept):
                    break
                _LOG.warning("%s %s: %s; trying it elsewhere", scope["method"], masked(scope["path"]), attempt.fault)
                await asyncio.sleep(pause)
            await attempt.give_up(scope)
        finally:
            body.close()

    async def _try(self, scope: Scope, body: _Body, attempt: _Attempt) -> None:
        """One try, ended by the application or by the patience with it."""
        loop = asyncio.get_running_loop()
        given_up: asyncio.Future[None] = loop.create_future()
        patience = _SHORT_S if self._deserted or scope["path"] in _HEALTH else _PATIENCE_S
        began = loop.time()
        timer: asyncio.TimerHandle

        def look() -> None:
            nonlocal timer
            # Where the last one has just ended, a replica is about to take the next.
            is_busy = self._at_work or loop.time() - self._last_seen < patience
            if is_busy and loop.time() - began < _LONGEST_S:
                timer = loop.call_later(patience / 4, look)
            else:
                given_up.set_result(None)

        def taken() -> None:
            timer.cancel()
            self._at_work, self._deserted = self._at_work + 1, False

        attempt.on_taken = taken
        timer = loop.call_later(patience, look)
        try:
            # A copy of its own: what is around the application adds to the headers.
            await self._app(dict(scope), body.until(given_up), attempt.send)
        except Exception as error:
            _LOG.error("%s %s failed in the proxy", scope["method"], masked(scope["path"]), exc_info=error)
        finally:
            timer.cancel()
            if attempt.taken:
                self._at_work, self._last_seen = self._at_work - 1, loop.time()
        if given_up.done() and not attempt.taken:
            attempt.waited_in_vain()
            self._deserted = self._deserted or not (self._at_work or scope["path"] in _HEALTH)


class _Body:
    """A request's body as it comes in, kept so that it can be sent again."""

    def __init__(self, receive: Receive) -> None:
        self._receive = receive
        self._messages: list[Message] = []
        self._bytes = 0
        self._coming: asyncio.Future[Message] | None = None
        self.kept, self.gone = True, False
        """Whether all of it is still here; whether the client has left."""

    def until(self, given_up: asyncio.Future[None]) -> Receive:
        """Return what reads it from its beginning, and then that the client has left, once a try is given up."""
        at = 0

        async def receive() -> Message:
            nonlocal at
            while at == len(self._messages):
                # One for all tries: what a try that has ended was waiting for is the next one's.
                coming = self._coming = self._coming or asyncio.ensure_future(self._receive())
                await asyncio.wait((coming, given_up), return_when=asyncio.FIRST_COMPLETED)
                if given_up.done():
                    return {"type": "http.disconnect"}
                if self._coming is coming:
                    self._coming = None
                    self._take(coming.result())
            message = self._messages[at]
            at += 1
            if not self.kept:
                self._messages[at - 1] = {}
            return message

        return receive

    def close(self) -> None:
        """Wait for nothing more."""
        if self._coming is not None:
            self._coming.cancel()

    def _take(self, message: Message) -> None:
        self.gone = self.gone or message["type"] == "http.disconnect"
        self._bytes += len(message.get("body", b""))
        self.kept = self.kept and self._bytes <= _KEPT_BYTES
        self._messages.append(message)


class _Attempt:
    """What has come of one try. The answer's start is held back until there is something of its body."""

    def __init__(self, send: Send) -> None:
        self._send = send
        self._start: Message | None = None
        self._held: list[Message] = []
        """An answer that another replica would have given otherwise, as far as it has come."""
        self._begun = False
        self._untouched = False
        """Whether it is certain that no replica has begun."""
        self.on_taken: Callable[[], None] = lambda: None
        self.taken = self.ended = False
        self.fault = "the replica was lost before it answered"

    @property
    def lost(self) -> bool:
        """Whether another try may do better, and the client has seen nothing of this one."""
        return not (self._untouched or self._begun)

    async def send(self, message: Message) -> None:
        """Take a message of the application."""
        if message["type"] == TAKEN:
            self._take()
        elif message["type"] == "http.response.start":
            self._start = message
            if not _is_serve_s_own(message):
                self._take()
        elif message["type"] != "http.response.body":
            await self._send(message)
        elif self._start is not None and _is_serve_s_own(self._start):
            self.fault, self._untouched = "no replica takes requests now", True
        elif self._start is not None and ELSEWHERE in _headers(self._start):
            self._held.append(message)
            self.fault = "the replica takes no requests"
        elif not self.ended and self._start is not None:
            await self._pass_on(message)

    async def _pass_on(self, message: Message) -> None:
        last = not message.get("more_body", False)
        if not self._begun and (last or message.get("body")):
            self._begun = True
            await self._send(self._start or {})
        if self._begun:
            await self._send(message)
            self.ended = last

    def _take(self) -> None:
        if not self.taken:
            self.taken = True
            self.on_taken()

    def waited_in_vain(self) -> None:
        """Note that no replica has taken it within the patience."""
        self.fault, self._untouched = "no replica has taken the request", True

    async def give_up(self, scope: Scope) -> None:
        """Tell the client what has become of it."""
        if self._begun:
            if "text/event-stream" in _headers(self._start or {}).get("content-type", ""):
                event = _error("the replica was lost while it answered: what came is not all; ask again", 503)
                await self._send({"type": "http.response.body", "body": b"data: " + event + b"\n\n"})
            # Anything else is shorter than it said, and the server closes its connection.
        elif self._held and self._start is not None:
            await self._send_all([self._start, *self._held])
        elif self.lost and not _is_repeatable(scope) and scope["path"] != _COUNTED_ONCE:
            await self._send_all(answer(502, f"{self.fault}: whether it was done, GET /v1/domains tells"))
        else:
            await self._send_all(answer(503, f"{self.fault}; come again in a moment"))

    async def _send_all(self, messages: Iterable[Message]) -> None:
        for message in messages:
            await self._send(message)


def answer(status: int, message: str, *headers: str) -> list[Message]:
    """An error in OpenAI's form, with headers that say all by their name; of a 503 that one may come again."""
    content = _error(message, status)
    told = [(b"content-type", b"application/json"), (b"content-length", str(len(content)).encode())]
    told += [(name.encode(), b"1") for name in headers]
    if status == 503:
        told.append((b"retry-after", b"2"))
    return [
        {"type": "http.response.start", "status": status, "headers": told},
        {"type": "http.response.body", "body": content},
    ]


def _is_repeatable(scope: Scope) -> bool:
    return scope["method"] == "GET" or (scope["method"] == "POST" and scope["path"] in _REPEATABLE)


def _is_serve_s_own(start: Message) -> bool:
    """Tell whether an answer is a text page of Serve's proxy; every error of a replica's is JSON."""
    return start["status"] >= 400 and _headers(start).get("content-type", "").startswith("text/plain")


def _headers(start: Message) -> dict[str, str]:
    found: Any = start.get("headers", ())
    return {bytes(name).decode("latin-1").lower(): bytes(value).decode("latin-1") for name, value in found}


def _error(message: str, status: int) -> bytes:
    """An error in OpenAI's form, as `serving.openai_body` writes it, which takes pydantic to import."""
    kind = "ServiceUnavailableError" if status == 503 else "BadGatewayError"
    return json.dumps({"error": {"message": message, "type": kind, "param": None, "code": status}}).encode()
