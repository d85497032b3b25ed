"""A loop that does not end by itself, nor in silence: what fails is said and tried again; what fails alike for too long
ends the process, which is then made anew by whoever watches over it.

It knows neither what a step does nor who watches.
"""

from __future__ import annotations

import logging
import os
import re
import threading
import time
from collections.abc import Callable

from actors.errors import ActorError, in_words
from learning.errors import FingerprintMismatch
from streaming.errors import LogReplaced

_FIRST_PAUSE_S, _LONGEST_PAUSE_S = 0.1, 10.0
_ALIKE_FOR_S = 120.0
_EXIT_STATUS = 70
"""`EX_SOFTWARE` of sysexits.h."""
_NOT_OF_THIS_PROCESS = (ActorError, FingerprintMismatch, LogReplaced)
"""What a new process would meet again: what actors refuse each other, so that a person has to decide, or a peer that is
not there."""
_NUMBERS = re.compile(r"\d+")

_log = logging.getLogger(__name__)


def end_process(words: str) -> None:
    """Say why, and end the process at once: threads that hang can't keep it."""
    _log.critical("%s; this process ends, to be made anew", words)
    logging.shutdown()
    os._exit(_EXIT_STATUS)


class Loop:
    """Repeats `step` in a daemon thread of its own, `rest_s` apart, until `stop`.

    A step that failed is tried again after a pause that doubles from 0.1 s to 10 s. After `alike` failures in a row
    with the same words, numbers apart, over at least two minutes, `give_up` is called with them. What another process
    could do no better with is tried again for as long as it takes.
    """

    def __init__(
        self,
        name: str,
        step: Callable[[], object],
        *,
        rest_s: float = 0.0,
        alike: int = 20,
        give_up: Callable[[str], None] = end_process,
    ) -> None:
        self.name = name
        self.trouble: str | None = None
        """What the last step failed for, in words; None where it did not."""
        self._step, self._rest_s, self._limit, self._give_up = step, rest_s, alike, give_up
        self._progressed_at = time.monotonic()
        self._pause_s = _FIRST_PAUSE_S
        self._alike, self._alike_since = 0, 0.0
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)

    def start(self) -> None:
        """Begin; once."""
        self._progressed_at = time.monotonic()
        self._thread.start()

    def stop(self, timeout_s: float = 30.0) -> bool:
        """Have the loop end after the step under way; returns whether it has within `timeout_s`."""
        self._stop.set()
        if self._thread.is_alive() and self._thread is not threading.current_thread():
            self._thread.join(timeout_s)
        return not self._thread.is_alive()

    def wait(self, seconds: float) -> None:
        """Let a step that has nothing to do wait; stopping ends it at once."""
        self._stop.wait(seconds)

    def progress_seconds(self) -> float:
        """Return the seconds since a step last succeeded, before the first since the start."""
        return time.monotonic() - self._progressed_at

    def _run(self) -> None:
        try:
            while not self._stop.is_set():
                self._stop.wait(self._turn())
        except BaseException as error:
            # It could not even be noted what went wrong, and a loop that is no more would be missed by nobody.
            self._give_up(f"{self.name}: {type(error).__name__}")

    def _turn(self) -> float:
        """Take one step; returns for how long to pause."""
        try:
            self._step()
        except BaseException as error:
            # SystemExit, KeyboardInterrupt and MemoryError as well: each would end this thread, and nothing else.
            return self._fail(error)
        self.trouble, self._pause_s, self._alike = None, _FIRST_PAUSE_S, 0
        self._progressed_at = time.monotonic()
        return self._rest_s

    def _fail(self, error: BaseException) -> float:
        words, before, now = in_words(error), self.trouble, time.monotonic()
        self.trouble = words
        if isinstance(error, _NOT_OF_THIS_PROCESS) or isinstance(error.__cause__, _NOT_OF_THIS_PROCESS):
            self._alike = 0
        elif self._alike and before is not None and _kind(before) == _kind(words):
            self._alike += 1
        else:
            self._alike, self._alike_since = 1, now
        if self._alike >= self._limit and now - self._alike_since >= _ALIKE_FOR_S:
            self._give_up(f"{self.name}: {self._alike} failures in a row: {words}")
            self._alike = 0
        pause_s, self._pause_s = self._pause_s, min(2 * self._pause_s, _LONGEST_PAUSE_S)
        return pause_s


def _kind(words: str) -> str:
    return _NUMBERS.sub("#", words)
