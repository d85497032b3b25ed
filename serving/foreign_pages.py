"""Keeps pages of other origins from changing anything where no key is asked for: a browser sends their simple requests
without asking first, and only keeps the answer from them. Plain ASGI; knows no key.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from urllib.parse import urlsplit

from fastapi.responses import JSONResponse
from starlette.types import ASGIApp, Receive, Scope, Send

from serving.openai_body import error_body

_READING = ("GET", "HEAD", "OPTIONS")
_OWN = (b"same-origin", b"none")
_SAID = "pages of other origins can't call this; its operator may list them in serving.access.origins"


class ForeignPages:
    """Refuses (403) what a page of another origin sends to change something, but for the `origins` listed; `count` is
    told the status of each answer made here.

    What a browser says of itself (`sec-fetch-site`, which no page can set) decides, so that a proxy may change the
    host; without it the origin has to be the host that was asked. Who is no browser sends neither.
    """

    def __init__(self, app: ASGIApp, origins: Collection[str], count: Callable[[int], None]) -> None:
        self._app, self._count = app, count
        self._all = "*" in origins
        self._origins = {origin.lower().encode() for origin in origins}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["method"] in _READING or self._all or self._may(scope):
            await self._app(scope, receive, send)
            return
        self._count(403)
        await JSONResponse(error_body(_SAID, "PermissionDeniedError", 403), 403)(scope, receive, send)

    def _may(self, scope: Scope) -> bool:
        headers: dict[bytes, bytes] = dict(scope["headers"])
        origin = headers.get(b"origin")
        if origin is None:
            return True
        if origin.lower() in self._origins:
            return True
        if (site := headers.get(b"sec-fetch-site")) is not None:
            return site in _OWN
        try:
            asked = urlsplit(origin.decode("latin-1")).netloc.lower()
        except ValueError:
            return False
        return bool(asked) and asked == headers.get(b"host", b"").decode("latin-1").lower()
