"""What changes in the system, told as it changes: one stream of server-sent events for whoever looks on.

    event: system     all of the status but its domains, whenever it is not what was told last
    event: domains    the domains that are not what was told last, and the names of those that are gone
    event: trouble    why nothing can be told now; the next event ends it
    : still here      every 15 seconds without another

However many look on, the system is asked once, each second while something changes and each three while nothing does;
while nobody looks on, not at all. Knows no HTTP.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping
from typing import Literal

from serving.api import Body, DomainEvent, DomainStatus, SystemStatus, TroubleEvent
from serving.errors import ControlUnavailable

_LOOK_S = 1.0
_REST_S = 3.0
_CALM_LOOKS = 10
"""Looks at which nothing had changed, after which they are rarer."""
_SILENCE_S = 15.0
"""Below what proxies take for the end of a connection."""
_AWAY = "the system behind this replica can't be asked: the replica's log tells why"
_LOG = logging.getLogger(__name__)

Kind = Literal["system", "domains", "trouble"]


class StatusStream:
    """One replica's look at the system; used on one event loop. `status` may raise; once it `is_leaving`, every stream
    ends, so that whoever looks on comes to another replica."""

    def __init__(self, status: Callable[[], Awaitable[SystemStatus]], is_leaving: Callable[[], bool]) -> None:
        self._status, self._is_leaving = status, is_leaving
        self._seen: SystemStatus | None = None
        self._trouble: str | None = None
        self._looks = 0
        self._changed = asyncio.Condition()
        self._looking: asyncio.Task[None] | None = None
        self.watchers = 0
        """How many look on now."""

    async def events(self) -> AsyncGenerator[str, None]:
        """The events for one who looks on."""
        self.watchers += 1
        if self._looking is None or self._looking.done():
            self._looking = asyncio.create_task(self._look(), name="watch")
        try:
            told: dict[str, DomainStatus] = {}
            system: SystemStatus | None = None
            trouble, looks = None, -1
            while True:
                is_new = await self._wait(looks)
                looks = self._looks
                if self._is_leaving():
                    return
                if not is_new:
                    yield ": still here\n\n"
                    continue
                if self._trouble != trouble:
                    trouble = self._trouble
                    if trouble is not None:
                        yield _event("trouble", TroubleEvent(message=trouble))
                        # What comes next ends it, also where nothing has changed.
                        system = None
                if self._seen is None or trouble is not None:
                    continue
                now = {each.domain: each for each in self._seen.domains}
                if system is None or now != told:
                    yield _event("domains", _difference(told, now))
                    told = now
                rest = self._seen.model_copy(update={"domains": ()})
                if _lasting(rest) != _lasting(system):
                    system = rest
                    yield _event("system", rest)
        finally:
            self.watchers -= 1
            if not self.watchers and self._looking is not None:
                self._looking.cancel()
                self._looking, self._seen, self._trouble = None, None, None

    async def _wait(self, looks: int) -> bool:
        """Wait for a look after that one; False where none came that had anything new."""
        async with self._changed:
            try:
                async with asyncio.timeout(_SILENCE_S):
                    await self._changed.wait_for(lambda: self._looks > looks)
            except TimeoutError:
                return False
        return True

    async def _look(self) -> None:
        calm = 0
        while True:
            seen, trouble = self._seen, None
            try:
                seen = await self._status()
            except ControlUnavailable as error:
                trouble = str(error)
            except Exception as error:
                _LOG.error("the system's state can't be told to who looks on", exc_info=error)
                trouble = _AWAY
            is_new = trouble != self._trouble or _lasting(seen) != _lasting(self._seen)
            calm = 0 if is_new else calm + 1
            if is_new or self._is_leaving():
                async with self._changed:
                    self._seen, self._trouble = seen, trouble
                    self._looks += 1
                    self._changed.notify_all()
            await asyncio.sleep(_LOOK_S if calm < _CALM_LOOKS else _REST_S)


def _lasting(seen: SystemStatus | None) -> SystemStatus | None:
    """The same without what changes with every look: for how long each actor is up."""
    if seen is None:
        return None
    without = {"up_seconds": None, "progress_seconds": None}
    return seen.model_copy(update={"actors": tuple(each.model_copy(update=without) for each in seen.actors)})


def _difference(told: Mapping[str, DomainStatus], now: Mapping[str, DomainStatus]) -> DomainEvent:
    return DomainEvent(
        domains=tuple(each for name, each in now.items() if told.get(name) != each),
        gone=tuple(name for name in told if name not in now),
    )


def _event(kind: Kind, body: Body) -> str:
    return f"event: {kind}\ndata: {body.model_dump_json()}\n\n"
