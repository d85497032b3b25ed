"""One replica's side of quotas: the meter of all replicas decides, and where it is away the replica's own does.

    take     one call a request, of keys that have quotas alone
    report   tokens of answers, and requests that were admitted while it was away or before it began again: soon, until
             it has them, and each once

Every request is counted here as well, so that a meter that has begun anew can be told of the last minute. While it is
away each replica lets a key have its whole quota by itself. Knows no HTTP, nor how the meter is reached.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from serving.meter import WINDOW_SECONDS, Excess, Meter, Quota

_PATIENCE_S = 0.5
"""Seconds that a request waits for the meter."""
_PAUSE_S = 1.0
"""Seconds for which nobody asks a meter that did not answer."""

_LOG = logging.getLogger(__name__)


@dataclass(frozen=True)
class Ruling:
    """What the meter of all says to a request."""

    run: str
    """Which meter it is: another after each start."""
    used: int
    """Tokens of the key today."""
    excess: Excess | None


class MeterPort(Protocol):
    """The meter of all replicas. Any call may fail, and be done all the same."""

    async def take(self, key: str, quota: Quota) -> Ruling: ...

    async def report(
        self, replica: str, number: int, tokens: Mapping[str, int], ages: Mapping[str, Sequence[float]]
    ) -> None: ...


@dataclass
class _Unreported:
    tokens: dict[str, int] = field(default_factory=dict)
    times: dict[str, deque[float]] = field(default_factory=dict)
    """When requests were admitted that the meter has not been asked about, of the last minute."""

    def admit(self, key: str, now: float) -> None:
        times = self.times.setdefault(key, deque())
        times.append(now)
        while times[0] < now - WINDOW_SECONDS:
            times.popleft()


class Quotas:
    """What the keys of one replica, named `replica`, may still use; without a `port` it decides alone."""

    def __init__(self, replica: str, port: MeterPort | None, meter: Meter | None = None) -> None:
        self._replica, self._port = replica, port
        self._meter = meter or Meter()
        self._run = ""
        self._away_until = 0.0
        self._number = 0
        self._unreported, self._under_way = _Unreported(), _Unreported()
        self._reporting: asyncio.Task[None] | None = None
        self.trouble: str | None = None
        """Why this replica counts by itself, while it does."""

    async def take(self, key: str, quota: Quota) -> Excess | None:
        """Admit a request and count it, or say why not."""
        if self._port is None:
            return self._meter.take(key, quota)
        if time.monotonic() >= self._away_until:
            try:
                async with asyncio.timeout(_PATIENCE_S):
                    ruling = await self._port.take(key, quota)
            except Exception as error:
                self._is_away(error)
            else:
                return self._told(key, ruling)
        excess = self._meter.take(key, quota)
        if excess is None:
            self._unreported.admit(key, time.monotonic())
            self._report_soon()
        return excess

    def spend(self, key: str, tokens: int) -> None:
        """Count the tokens of an answer."""
        if tokens <= 0:
            return
        self._meter.spend(key, tokens)
        if self._port is not None:
            self._unreported.tokens[key] = self._unreported.tokens.get(key, 0) + tokens
            self._report_soon()

    async def reported(self) -> None:
        """Return once everything that was counted by now is reported, or could not be."""
        if self._reporting is not None:
            await asyncio.wait({self._reporting})

    def _told(self, key: str, ruling: Ruling) -> Excess | None:
        self.trouble = None
        if ruling.run != self._run:
            if self._run:
                # Begun anew, it knows nothing of the last minute.
                self._again()
            self._run = ruling.run
        self._meter.learn(key, ruling.used)
        if ruling.excess is None:
            self._meter.note(key)
        return ruling.excess

    def _again(self) -> None:
        now = time.monotonic()
        self._under_way.times = {}
        self._unreported.times = {key: deque(now - age for age in ages) for key, ages in self._meter.ages().items()}
        self._report_soon()

    def _is_away(self, error: Exception) -> None:
        if self.trouble is None:
            _LOG.warning("the meter of all replicas does not answer (%s: %s)", type(error).__name__, error)
        self.trouble = "the meter of all replicas does not answer: this replica counts quotas by itself"
        self._away_until = time.monotonic() + _PAUSE_S

    def _report_soon(self) -> None:
        if self._reporting is None or self._reporting.done():
            self._reporting = asyncio.create_task(self._report())

    async def _report(self) -> None:
        """Report until there is nothing more; what may have arrived is sent again under the same number."""
        port = self._port
        while port is not None and (self._under_way.tokens or self._under_way.times or self._take_up()):
            now, sent = time.monotonic(), self._under_way
            ages = {key: [now - each for each in times] for key, times in sent.times.items()}
            try:
                async with asyncio.timeout(_PATIENCE_S):
                    await port.report(self._replica, self._number, sent.tokens, ages)
            except Exception as error:
                self._is_away(error)
                await asyncio.sleep(_PAUSE_S)
            else:
                self._under_way, self.trouble = _Unreported(), None

    def _take_up(self) -> bool:
        self._under_way, self._unreported = self._unreported, _Unreported()
        self._number += 1
        return bool(self._under_way.tokens or self._under_way.times)
