"""Asking several peers at once, so that one that hangs keeps nobody waiting for the others.

Each question goes its way in a thread of its own. A peer that has not answered is not asked again meanwhile: its answer
counts when it comes, so whatever leads to a peer has to end a call at last. It knows neither peers nor questions.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any, Generic, TypeVar

from actors.errors import Unanswered

T = TypeVar("T")


def in_a_thread(work: Callable[[], None]) -> None:
    """Have work done in a thread that keeps no process from ending."""
    threading.Thread(target=work, name="ask", daemon=True).start()


class Asked(Generic[T]):
    """One question that was put to a peer, and is waited for `patience_s` seconds from then on."""

    def __init__(self, question: Callable[[], T], patience_s: float) -> None:
        self._question, self._patience_s = question, patience_s
        self._answer: Future[T] = Future()
        self._began = time.monotonic()
        self._ended: float | None = None
        self._is_taken = False

    def run(self) -> None:
        """Ask, and keep what comes."""
        try:
            self._answer.set_result(self._question())
        except BaseException as error:
            self.fail(error)
        self._ended = time.monotonic()

    def fail(self, error: BaseException) -> None:
        """Keep why there is no answer."""
        self._answer.set_exception(error)
        self._ended = time.monotonic()

    def answer(self) -> T:
        """Return what the peer says, or raise what it raises; raises `Unanswered` where it takes too long."""
        left_s = self._patience_s - (time.monotonic() - self._began)
        try:
            answer = self._answer.result(max(left_s, 0.0))
        except TimeoutError:
            if self._answer.done():
                self._is_taken = True
                raise
            raise Unanswered(f"no answer for {time.monotonic() - self._began:.0f} s") from None
        except BaseException:
            self._is_taken = True
            raise
        self._is_taken = True
        return answer

    def is_open(self, within_s: float) -> bool:
        """Tell whether its answer is still to come, or came within these seconds and nobody has it."""
        if self._is_taken:
            return False
        return self._ended is None or time.monotonic() - self._ended <= within_s

    def was_slow(self, than_s: float) -> bool:
        """Tell whether the peer took longer."""
        return self._ended is not None and self._ended - self._began > than_s

    def is_of_use(self, than_s: float) -> bool:
        """Tell whether the next question to the peer has to know of this one."""
        return self.is_open(than_s) or self.was_slow(than_s)


class FanOut:
    """The peers of one actor by name; any thread may ask.

    A peer is waited for `deadline_s`, one that took longer last time not at all until it has been in time again.
    """

    def __init__(self, deadline_s: float = 5.0, spawn: Callable[[Callable[[], None]], None] = in_a_thread) -> None:
        self._deadline_s, self.spawn = deadline_s, spawn
        self._lock = threading.Lock()
        self._asked: dict[str, Asked[Any]] = {}

    def ask(self, name: str, question: Callable[[], T]) -> Asked[T]:
        """Put a question to the peer of that name, unless its answer to the one before is still to be had; that must
        have been the same question."""
        with self._lock:
            # Peers come and go.
            self._asked = {peer: asked for peer, asked in self._asked.items() if asked.is_of_use(self._deadline_s)}
            before = self._asked.get(name)
            if before is not None and before.is_open(self._deadline_s):
                return before
            is_slow = before is not None and before.was_slow(self._deadline_s)
            asked = Asked(question, 0.0 if is_slow else self._deadline_s)
            self._asked[name] = asked
        try:
            self.spawn(asked.run)
        except BaseException as error:
            # No thread to be had: the peer is to be asked again all the same.
            asked.fail(error)
        return asked
