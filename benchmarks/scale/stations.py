"""Where work queues: stations of one or more equal servers, first come first served, which keep their own figures.

Knows SimPy and nothing of ours. Busy time and waits count inside the window in which a run is measured.
"""

from __future__ import annotations

import heapq
from collections.abc import Generator
from typing import Any

import numpy as np
import simpy

Events = Generator[simpy.Event, Any, None]


class Station:
    """Servers of one kind. `window` is (start, end) of what is measured, in simulated seconds.

    First come first served with times that are known on coming, so that it is settled at once when each will be served:
    one event a piece of work.
    """

    def __init__(self, env: simpy.Environment, servers: int, window: tuple[float, float]) -> None:
        self._env, self._window, self.servers = env, window, servers
        self._free_at = [0.0] * servers
        """When each server will have done all that has come, as a heap."""
        self._begins: list[float] = []
        self.busy = 0.0
        """Server seconds of work inside the window."""
        self.kinds: dict[str, float] = {}
        """The same by the kind of work."""
        self.waits: list[float] = []
        """Seconds before each piece of work that came inside the window is begun."""

    def work(self, seconds: float, kind: str = "work") -> Events:
        """Wait for a server and keep it for so long."""
        now, (start, end) = self._env.now, self._window
        begin = max(now, self._free_at[0])
        heapq.heapreplace(self._free_at, begin + seconds)
        if begin > now:
            self._begins.append(begin)
        if start <= now < end:
            self.waits.append(begin - now)
        inside = max(0.0, min(begin + seconds, end) - max(begin, start))
        self.busy += inside
        self.kinds[kind] = self.kinds.get(kind, 0.0) + inside
        yield self._env.timeout(begin + seconds - now)

    @property
    def waiting(self) -> int:
        """Pieces of work that nobody serves yet."""
        return sum(begin > self._env.now for begin in self._begins)

    @property
    def utilisation(self) -> float:
        """Share of the servers' time inside the window that was work."""
        start, end = self._window
        return self.busy / (self.servers * (end - start))

    def figures(self) -> dict[str, Any]:
        """What a report says of it; seconds."""
        waits, (start, end) = np.array(self.waits or [0.0]), self._window
        return {
            "utilisation": self.utilisation,
            "by_kind": {kind: each / (self.servers * (end - start)) for kind, each in self.kinds.items()},
            "servers": self.servers,
            "pieces": len(self.waits),
            "waiting_at_the_end": self.waiting,
            "mean_wait": float(waits.mean()),
            "p99_wait": float(np.quantile(waits, 0.99)),
        }


class EventLoop:
    """One event loop whose calls wake everybody who waits there: all that come while it is busy share the next wake.

    So it is never too slow for its wakes, only for its calls: by these its utilisation is told.
    """

    def __init__(self, env: simpy.Environment, call_s: float, wake_s: float, window: tuple[float, float]) -> None:
        self._env, self._call_s, self._wake_s, self._window = env, call_s, wake_s, window
        self._calls: list[simpy.Event] = []
        self._is_busy = False
        self.busy = 0.0
        """Seconds of calls and wakes inside the window."""
        self.answers: list[float] = []
        """Seconds from each call that came inside the window to its answer."""

    def call(self) -> Events:
        """Wait until it has answered."""
        came, done = self._env.now, self._env.event()
        self._calls.append(done)
        if not self._is_busy:
            self._is_busy = True
            self._env.process(self._serve())
        yield done
        if came >= self._window[0]:
            self.answers.append(self._env.now - came)

    def _serve(self) -> Events:
        start, end = self._window
        while self._calls:
            taken, self._calls = self._calls, []
            seconds = len(taken) * self._call_s + self._wake_s
            self.busy += max(0.0, min(self._env.now + seconds, end) - max(self._env.now, start))
            yield self._env.timeout(seconds)
            for each in taken:
                each.succeed()
        self._is_busy = False

    def figures(self) -> dict[str, float]:
        """As a station's, and the share of time that it is busy with calls and wakes."""
        start, end = self._window
        answers = np.array(self.answers or [0.0])
        return {
            "utilisation": len(self.answers) * self._call_s / (end - start),
            "busy": self.busy / (end - start),
            "servers": 1,
            "waiting_at_the_end": len(self._calls),
            "mean_wait": float(answers.mean()),
            "p99_wait": float(np.quantile(answers, 0.99)),
        }
