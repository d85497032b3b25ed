"""The door of one replica: who asks, whether the key is for that, whether it may ask more now, and what is recorded.

    a key in the address        401        whatever else is right
    no key, or none that opens  401        www-authenticate
    another scope, or domains   403        nothing is done, nothing is counted
    its quota is used           429        retry-after; nothing is counted
    an administrator's act      recorded before it is begun, and how it ended

Plain ASGI around the application, whatever stands before it. What a key's domains mean for a model, a record or a
command is told by `serving.caller` where these are known. Keys are neither logged nor echoed.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Self
from urllib.parse import unquote_to_bytes

from fastapi.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from registry.audit import AuditLog
from registry.errors import RegistryError
from registry.key_form import KEY
from registry.keys import AccessKey, KeyStore
from registry.storage import Storage
from serving.access_options import AccessOptions
from serving.caller import CALLER, Caller, forbidden
from serving.errors import ControlUnavailable, Refused
from serving.key_ring import KeyRing
from serving.meter import Quota
from serving.openai_body import error_body
from serving.page import ASSETS
from serving.quotas import MeterPort, Quotas

GENERATION = ("/v1/chat/completions", "/v1/completions", "/v1/route")
_HEALTH = ("/healthz", "/readyz")
_PAGE = "/"
_READING = ("GET", "HEAD", "OPTIONS")


@dataclass(frozen=True)
class Access:
    """What the door of one replica stands on."""

    required: bool
    """Whether a request needs a key."""
    options: AccessOptions
    store: KeyStore
    ring: KeyRing
    audit: AuditLog
    quotas: Quotas

    @classmethod
    def over(
        cls,
        storage: Storage,
        options: AccessOptions,
        *,
        required: bool,
        replica: str = "",
        meter: MeterPort | None = None,
    ) -> Self:
        """The door over a registry's storage; `meter` counts for all replicas, None where this one does."""
        store = KeyStore(storage)
        return cls(required, options, store, KeyRing(store), AuditLog(storage), Quotas(replica, meter))

    def trouble(self) -> str | None:
        """What is failing, while requests are answered all the same."""
        return "; ".join(each for each in (self.ring.trouble, self.quotas.trouble) if each) or None


class _Unknown(Exception):
    """Who asks is nobody that is known; the message says why."""


class Door:
    """Lets in who has a key; `count` is told the status of each answer made here."""

    def __init__(self, app: ASGIApp, access: Access, count: Callable[[int], None]) -> None:
        self._app, self._access, self._count = app, access, count
        self._open = (*_HEALTH, _PAGE, *(("/metrics",) if access.options.metrics == "open" else ()))

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "websocket":
            await send({"type": "websocket.close"})
            return
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        try:
            caller = await self._admitted(scope)
            act = await self._begun(caller, scope)
        except _Unknown as unknown:
            await self._answer(scope, receive, send, 401, str(unknown), "AuthenticationError")
        except _Spent as spent:
            await self._answer(scope, receive, send, 429, str(spent), "RateLimitError", spent.retry_after)
        except Refused as refused:
            self._count(refused.status)
            await JSONResponse(refused.body, refused.status)(scope, receive, send)
        except (ControlUnavailable, RegistryError) as error:
            words = str(error) if isinstance(error, ControlUnavailable) else _NOT_RECORDED
            await self._answer(scope, receive, send, 503, words, "ServiceUnavailableError", 1)
        else:
            await self._let_in(scope, receive, send, caller, act)

    async def _admitted(self, scope: Scope) -> Caller:
        path, is_open = scope["path"], self._is_open(scope["path"])
        try:
            key = await self._key(scope)
        except (_Unknown, ControlUnavailable):
            if is_open:
                return Caller("")
            raise
        if not is_open:
            _check_scope(key, path)
            await self._check_quota(key)
        quotas = self._access.quotas
        return Caller(
            key.id,
            frozenset(key.scopes),
            None if key.domains is None else frozenset(key.domains),
            None if key.tokens_per_day is None else lambda tokens: quotas.spend(key.id, tokens),
        )

    def _is_open(self, path: str) -> bool:
        return path in self._open or path.startswith(ASSETS)

    async def _key(self, scope: Scope) -> AccessKey:
        for part in (scope.get("raw_path") or b"", scope["query_string"]):
            if KEY.search(unquote_to_bytes(part).decode(errors="replace")):
                raise _Unknown("a key stands in the address, where others may read it: revoke it; " + _REMEDY)
        given = [value for name, value in scope["headers"] if name.lower() == b"authorization"]
        if len(given) != 1:
            raise _Unknown(f"expected one Authorization header, got {len(given) or 'none'}; {_REMEDY}")
        kind, _, text = given[0].strip().partition(b" ")
        if kind.lower() != b"bearer" or not text.strip():
            raise _Unknown(f"expected a bearer's key in the Authorization header, got something else; {_REMEDY}")
        found = await self._access.ring.find(text.strip().decode("latin-1"))
        if isinstance(found, str):
            raise _Unknown(found)
        return found

    async def _check_quota(self, key: AccessKey) -> None:
        if key.requests_per_minute is None and key.tokens_per_day is None:
            return
        excess = await self._access.quotas.take(key.id, Quota(key.requests_per_minute, key.tokens_per_day))
        if excess is not None:
            what = "requests a minute" if excess.of == "requests" else "tokens a day (UTC)"
            raise _Spent(f"the key's {excess.limit} {what} are used", excess.retry_after)

    async def _begun(self, caller: Caller, scope: Scope) -> str | None:
        """Record an act of an administrator's; None for what is none."""
        if scope["method"] in _READING or self._is_open(scope["path"]) or _scope_of(scope["path"]) != "admin":
            return None
        return await asyncio.to_thread(self._access.audit.begin, caller.key, f"{scope['method']} {scope['path']}")

    async def _let_in(self, scope: Scope, receive: Receive, send: Send, caller: Caller, act: str | None) -> None:
        told = False

        async def record(status: str) -> None:
            nonlocal told
            if act is not None and not told:
                told = True
                outcome = " ".join([status, *caller.notes])
                await asyncio.shield(asyncio.to_thread(self._access.audit.end, act, outcome))

        async def recorded(message: Message) -> None:
            if message["type"] == "http.response.start":
                await record(str(message["status"]))
            await send(message)

        token = CALLER.set(caller)
        try:
            await self._app(scope, receive, send if act is None else recorded)
        except Exception:
            await record("500")
            raise
        finally:
            CALLER.reset(token)
            # Where the client has left, what it asked for may be done.
            await record("no answer")

    async def _answer(
        self,
        scope: Scope,
        receive: Receive,
        send: Send,
        status: int,
        message: str,
        kind: str,
        retry_after: float | None = None,
    ) -> None:
        self._count(status)
        headers = {"www-authenticate": 'Bearer realm="anabranch"'} if status == 401 else {}
        if retry_after is not None:
            headers["retry-after"] = str(max(1, math.ceil(retry_after)))
        await JSONResponse(error_body(message, kind, status), status, headers)(scope, receive, send)


class _Spent(Exception):
    """The key may ask nothing more now."""

    def __init__(self, message: str, retry_after: float) -> None:
        super().__init__(message)
        self.retry_after = retry_after

    def __reduce__(self) -> tuple[type, tuple[str, float]]:
        return (type(self), (str(self), self.retry_after))


_REMEDY = "send `Authorization: Bearer KEY`"
_NOT_RECORDED = "what an administrator does can't be recorded now, so nothing was done; come again in a moment"


def _scope_of(path: str) -> str:
    """The scope that a path wants; empty where any key will do. What is not named wants an administrator."""
    if path in GENERATION or path == "/v1/models" or path.startswith("/v1/models/"):
        return "infer"
    return {"/v1/records": "ingest", "/openapi.json": ""}.get(path, "admin")


def _check_scope(key: AccessKey, path: str) -> None:
    wanted = _scope_of(path)
    if wanted and wanted not in key.scopes:
        raise forbidden(f"this wants a key of scope {wanted}; the key has {', '.join(key.scopes)}")
    if wanted == "admin" and key.domains is not None and not (path + "/").startswith("/v1/domains/"):
        raise forbidden("this concerns all domains, and the key is for some of them")
