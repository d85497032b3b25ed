"""Which domain and version a named session was answered by last: a hint that a replica keeps for itself.

Bounded in number and time. A session that has moved to another replica, or was forgotten, is chosen for by its messages
like any other chat. Used on one event loop. Knows no request.
"""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass

SECONDS = 3600.0
"""For how long after its last request a session is known."""
MOST = 10_000
"""Sessions known at once; those asked for longest ago go first."""


@dataclass(frozen=True)
class Answered:
    """`adapter`: the full version name."""

    domain: str
    adapter: str


class Sessions:
    """`clock` gives seconds that only grow."""

    def __init__(self, seconds: float = SECONDS, most: int = MOST, clock: Callable[[], float] = time.monotonic) -> None:
        self._seconds, self._most, self._clock = seconds, most, clock
        self._by_name: OrderedDict[str, tuple[float, Answered]] = OrderedDict()

    def __len__(self) -> int:
        return len(self._by_name)

    def get(self, name: str) -> Answered | None:
        """Who answered this session last, or None."""
        self._forget_old()
        found = self._by_name.get(name)
        return None if found is None else found[1]

    def put(self, name: str, answered: Answered) -> None:
        """Remember it, as of now."""
        self._by_name[name] = (self._clock(), answered)
        self._by_name.move_to_end(name)
        self._forget_old()

    def _forget_old(self) -> None:
        oldest = self._clock() - self._seconds
        while self._by_name and (len(self._by_name) > self._most or next(iter(self._by_name.values()))[0] < oldest):
            self._by_name.popitem(last=False)
