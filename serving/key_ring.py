"""The keys as one replica knows them: read again when they are old, gone by on when they can't be.

A request is checked against keys whose reading began at most `FRESH_SECONDS` before, so a revoked key opens nothing
after that. While the registry can't be read, those that are known hold, and that is said. Knows no HTTP.
"""

from __future__ import annotations

import asyncio
import hmac
import logging
import math
import secrets
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from registry.errors import RegistryError
from registry.key_form import digest_of, id_of
from registry.keys import AccessKey, KeyStore
from serving.errors import ControlUnavailable

FRESH_SECONDS = 5.0
"""How old what is known may be while the registry answers: also for how long a revoked key may open anything."""
_PATIENCE_S = 2.0
"""Seconds that requests wait for keys that are too old, before those are gone by."""
_PAUSE_S = 1.0
"""Between two readings that fail."""
_LONGEST = 200
"""Characters of anything that is looked at as a key."""

_LOG = logging.getLogger(__name__)


@dataclass(frozen=True)
class _Held:
    """A key, made ready to be compared with: times in seconds since 1970."""

    key: AccessKey | None
    digests: tuple[tuple[str, float], ...]
    ends: float


_NOBODY = _Held(None, ((secrets.token_hex(32), math.inf),), math.inf)
"""What an unknown id is compared with, so that it costs the same."""


class KeyRing:
    """`find` says whose key a text is."""

    def __init__(self, store: KeyStore, wall: Callable[[], float] = time.time) -> None:
        self._store, self._wall = store, wall
        self._held: Mapping[str, _Held] | None = None
        self._as_of = self._tried = -math.inf
        self._reading: asyncio.Task[None] | None = None
        self._fault: str | None = None

    @property
    def trouble(self) -> str | None:
        """Why what is known may be out of date, while it is."""
        if self._fault is None:
            return None
        return f"{self._fault}; the keys of {time.monotonic() - self._as_of:.0f} s ago hold meanwhile"

    def forget(self) -> None:
        """Have the next request read the keys: they have changed."""
        self._as_of = self._tried = -math.inf
        self._reading = None

    async def find(self, text: str) -> AccessKey | str:
        """The key, or why it opens nothing; that it has ended is told only to who has it. ControlUnavailable where no
        key is known yet."""
        if time.monotonic() - self._as_of > FRESH_SECONDS / 2:
            await self._refresh()
        if self._held is None:
            raise ControlUnavailable("the keys can't be read now; come again in a moment")
        return self._compared(text, self._held)

    def _compared(self, text: str, held: Mapping[str, _Held]) -> AccessKey | str:
        text = text if len(text) <= _LONGEST else ""
        there, found, now = held.get(id_of(text) or "", _NOBODY), digest_of(text), self._wall()
        is_right = is_late = False
        # Each is compared, whatever the others gave.
        for digest, until in there.digests:
            is_equal = hmac.compare_digest(found, digest)
            is_right |= is_equal and now < until
            is_late |= is_equal and now >= until
        if is_right and now < there.ends and there.key is not None:
            return there.key
        if is_right or is_late:
            return "the key has ended: it was revoked, replaced, or has expired; ask for another"
        if not held:
            return "there is no key yet: make the first with `anabranch keys create`"
        return "the key is not known"

    async def _refresh(self) -> None:
        now = time.monotonic()
        if self._reading is None and now - self._tried >= _PAUSE_S:
            self._tried = now
            self._reading = asyncio.create_task(self._read(now))
        # Who is known to be away is not waited for again and again.
        if self._reading is not None and now - self._as_of > FRESH_SECONDS and self._fault is None:
            reading = self._reading
            done, _ = await asyncio.wait({reading}, timeout=_PATIENCE_S)
            if not done and self._reading is reading:
                self._fault = "the access keys are not read within seconds"

    async def _read(self, began: float) -> None:
        mine = asyncio.current_task()
        try:
            keys = await asyncio.to_thread(self._store.read)
        except Exception as error:
            if self._fault is None or not isinstance(error, RegistryError):
                _LOG.warning("the access keys can't be read: %s", error)
            self._fault = f"the access keys can't be read: {error}"
        else:
            # One that was begun before a change here must not undo it.
            if self._reading is mine:
                self._held, self._as_of, self._fault = {key.id: _held(key) for key in keys}, began, None
        finally:
            if self._reading is mine:
                self._reading = None


def _held(key: AccessKey) -> _Held:
    digests = tuple((each.digest, each.until.timestamp() if each.until else math.inf) for each in key.secrets)
    ended = key.ended_at()
    return _Held(key, digests, ended.timestamp() if ended else math.inf)
