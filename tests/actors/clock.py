"""Time for asyncio that passes only by waiting, and then at once: what takes seconds is tested in milliseconds, and a
busy machine changes nothing.

`ImpatientLoop` skips to its next timer whenever nothing is ready; `clock` is what `time.monotonic` answers meanwhile.
For code without threads: another thread's work would seem to take for ever. Everywhere else `time.monotonic` answers
with `skew`: the machine's clock, and what a test has let pass beside it.
"""

from __future__ import annotations

import asyncio
import selectors
import time

_real = time.monotonic


class Clock:
    """Seconds that only `skip` moves on."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now

    def skip(self, seconds: float) -> None:
        self.now += seconds


class SkewedClock(Clock):
    """The machine's clock, and the seconds skipped."""

    def __call__(self) -> float:
        return _real() + self.now


clock = Clock()
skew = SkewedClock()


class _Impatient(selectors.DefaultSelector):  # type: ignore[valid-type, misc]
    """Looks whether something is ready; where not, the wait is over at once."""

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        if timeout is None:
            raise RuntimeError("everybody waits for somebody else, and nobody for a timer")
        ready = super().select(0)
        if not ready:
            clock.skip(max(timeout, 0.0))
        return ready


class ImpatientLoop(asyncio.SelectorEventLoop):
    """A loop on `clock`."""

    def __init__(self) -> None:
        super().__init__(_Impatient())

    def time(self) -> float:
        return clock()
