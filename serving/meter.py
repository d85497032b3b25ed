"""What keys have used: requests of the last 60 seconds, tokens of a day of UTC. Exact, for any number of threads.

One stands in each replica and one for all of them (`actors/meter.py`). Knows no key's owner, no clock but those it is
given, and nothing of how it is asked.
"""

from __future__ import annotations

import math
import threading
import time
from collections import OrderedDict, deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

WINDOW_SECONDS = 60.0
_DAY_SECONDS = 86_400
_DAYS_KEPT = 3
"""A clock that is put right finds what was counted before it went wrong."""


@dataclass(frozen=True)
class Quota:
    """What a key may use; None for no bound."""

    requests_per_minute: int | None
    tokens_per_day: int | None


@dataclass(frozen=True)
class Excess:
    """Why a request is refused, and after how many seconds it may come again."""

    of: Literal["requests", "tokens"]
    limit: int
    retry_after: float


class Meter:
    """`clock` is seconds since any moment, `wall` since 1970; either may go back."""

    def __init__(self, clock: Callable[[], float] = time.monotonic, wall: Callable[[], float] = time.time) -> None:
        self._clock, self._wall = clock, wall
        self._lock = threading.Lock()
        self._requests: dict[str, deque[float]] = {}
        """When each was admitted, ascending; none older than the window once its key is asked for."""
        self._tokens: OrderedDict[int, dict[str, int]] = OrderedDict()
        """By day since 1970, the one that was used last at the end."""

    def take(self, key: str, quota: Quota) -> Excess | None:
        """Admit a request and count it, or say why not; what is refused counts nothing."""
        with self._lock:
            used, limit = self._today().get(key, 0), quota.tokens_per_day
            if limit is not None and used >= limit:
                return Excess("tokens", limit, _DAY_SECONDS - self._wall() % _DAY_SECONDS)
            if quota.requests_per_minute is None:
                return None
            times, now = self._recent(key)
            if len(times) >= quota.requests_per_minute:
                oldest = times[-quota.requests_per_minute]
                wait = min(max(0.0, oldest + WINDOW_SECONDS - now), WINDOW_SECONDS)
                return Excess("requests", quota.requests_per_minute, wait)
            times.append(now)
            return None

    def spend(self, key: str, tokens: int) -> None:
        """Count the tokens of an answer."""
        with self._lock:
            today = self._today()
            today[key] = today.get(key, 0) + tokens

    def note(self, key: str) -> None:
        """Count a request that somebody else has just admitted."""
        with self._lock:
            times, now = self._recent(key)
            times.append(now)

    def admitted(self, key: str, ages: Sequence[float]) -> None:
        """Count requests that somebody else has admitted, these many seconds ago."""
        with self._lock:
            times, now = self._recent(key)
            merged = sorted([*times, *(now - age for age in ages if 0 <= age < WINDOW_SECONDS)])
            self._requests[key] = deque(merged)

    def used(self, key: str) -> int:
        """Tokens of today."""
        with self._lock:
            return self._today().get(key, 0)

    def learn(self, key: str, used: int) -> None:
        """Take it that at least so many tokens were used today."""
        with self._lock:
            today = self._today()
            today[key] = max(today.get(key, 0), used)

    def ages(self) -> dict[str, list[float]]:
        """How many seconds ago the requests of each key in the window were admitted."""
        with self._lock:
            found = {key: self._recent(key) for key in [*self._requests]}
            self._requests = {key: times for key, (times, _) in found.items() if times}
            return {key: [now - each for each in times] for key, (times, now) in found.items() if times}

    def days(self) -> dict[int, dict[str, int]]:
        """Tokens by day and key, to be kept."""
        with self._lock:
            return {day: dict(keys) for day, keys in self._tokens.items()}

    def restore(self, days: Mapping[int, Mapping[str, int]]) -> None:
        """Take up what was kept."""
        with self._lock:
            for day, keys in days.items():
                there = self._tokens.setdefault(day, {})
                for key, tokens in keys.items():
                    there[key] = max(there.get(key, 0), tokens)

    def _recent(self, key: str) -> tuple[deque[float], float]:
        times = self._requests.setdefault(key, deque())
        now = max(self._clock(), times[-1] if times else -math.inf)
        while times and times[0] <= now - WINDOW_SECONDS:
            times.popleft()
        return times, now

    def _today(self) -> dict[str, int]:
        day = int(self._wall() // _DAY_SECONDS)
        today = self._tokens.setdefault(day, {})
        self._tokens.move_to_end(day)
        while len(self._tokens) > _DAYS_KEPT:
            self._tokens.popitem(last=False)
        return today
