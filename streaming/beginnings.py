"""Where newly assigned partitions begin: asked of the caller until it answers, one partition's failure apart from the
others'.

A source adds what it was assigned and reads nothing of it until `settle` has placed it. It does not know logs.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable

from streaming.errors import StreamError
from streaming.source import StartAt, TopicPartition

_FIRST_PAUSE_S, _LONGEST_PAUSE_S = 0.2, 10.0


class Beginnings:
    """The partitions of one source that don't stand where its caller wants them yet.

    `add` may be called on another thread than `settle`, which may take as long as `start_at` does.
    """

    def __init__(self, start_at: StartAt) -> None:
        self._start_at = start_at
        self._lock = threading.Lock()
        # By assignment, not by partition alone: one that was taken away and came back meanwhile is asked for again.
        self._waiting: dict[TopicPartition, object] = {}
        self._failure: StreamError | None = None
        self._pause_s = _FIRST_PAUSE_S
        self._try_at = 0.0

    def add(self, assigned: Iterable[TopicPartition], hold: Callable[[], None] = lambda: None) -> None:
        """Note an assignment, which takes the place of whatever was waiting, and `hold` it back from being read: both
        at once, so that no answer to an earlier assignment can let it go in between."""
        with self._lock:
            hold()
            self._waiting = {each: object() for each in assigned}
            self._failure = None
            self._pause_s, self._try_at = _FIRST_PAUSE_S, 0.0

    def waiting(self) -> frozenset[TopicPartition]:
        """The partitions that nothing may be read of."""
        with self._lock:
            return frozenset(self._waiting)

    def settle(self, place: Callable[[TopicPartition, int | None], None]) -> None:
        """Ask where each waiting partition begins and `place` it there, unless the last failure was just now.

        Every one is tried, then StreamError is raised for the first that failed. Failed ones are tried again after
        pauses of 0.2 s doubling up to 10 s.
        """
        with self._lock:
            waiting = dict(self._waiting)
        if not waiting or time.monotonic() < self._try_at:
            return
        failed: dict[TopicPartition, Exception] = {}
        for each, assignment in waiting.items():
            try:
                wanted = self._start_at(each)
                with self._lock:
                    if self._waiting.get(each) is assignment:
                        place(each, wanted)
                        del self._waiting[each]
            except Exception as error:
                failed[each] = error
        self._conclude(failed)

    def raise_failure(self) -> None:
        """Raise the StreamError of the last try while anything waits because of it."""
        if self._failure is not None:
            # Without its earlier ways up, which would grow with each raise.
            raise self._failure.with_traceback(None)

    def _conclude(self, failed: dict[TopicPartition, Exception]) -> None:
        if not failed:
            self._failure = None
            self._pause_s, self._try_at = _FIRST_PAUSE_S, 0.0
            return
        each, error = next(iter(failed.items()))
        self._try_at = time.monotonic() + self._pause_s
        self._pause_s = min(2 * self._pause_s, _LONGEST_PAUSE_S)
        others = f" and {len(failed) - 1} more partition(s)" if len(failed) > 1 else ""
        if isinstance(error, StreamError):
            self._failure = error
        else:
            self._failure = StreamError(f"beginning to read {each}{others} failed: {error}; it is tried again")
            self._failure.__cause__ = error
        self.raise_failure()
