"""Making an actor inside its process, behind a constructor that always succeeds.

Ray gives up an actor whose constructor raises while it is started again, whatever else was asked of it. What an actor
needs when it is made (a broker, a folder, another process's lock) may be away just then. So the host around it is there
at once, and makes it in a thread, again and again with pauses; meanwhile it says what keeps it.
"""

from __future__ import annotations

import os
import socket
import threading
import time
import uuid
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass, replace
from typing import Any

from actors.errors import ActorError, in_words
from actors.vitals import Vitals

_SHORTEST_PAUSE_S, _LONGEST_PAUSE_S = 0.2, 10.0
PATIENCE_S = 5.0
"""How long a call waits for an actor that is being made."""


class NotMade(ActorError):
    """The actor's process runs, and what it needs to be made is not there yet; try again."""


@dataclass(frozen=True)
class HostVitals:
    """What an actor's process says of itself."""

    born: str
    """Which process it is: another after each start."""
    node: str
    """The host name of the machine that it runs on."""
    is_made: bool
    """Whether the actor is there."""
    failures: int
    """Times that making it has failed in this process."""
    vitals: Vitals
    """How the actor is, or what keeps it from being made."""


class Making:
    """Stands for what `build` returns, from the moment on that it returns it."""

    def __init__(self, build: Callable[[], Any]) -> None:
        self._build, self._born = build, f"{os.getpid()}-{uuid.uuid4().hex[:8]}"
        self._began = time.monotonic()
        self._failures, self._trouble = 0, "is being made"
        self.made: Future[Any] = Future()
        """Done once the actor is there; never fails."""
        threading.Thread(target=self._make, name="make", daemon=True).start()

    def _make(self) -> None:
        pause = _SHORTEST_PAUSE_S
        while True:
            try:
                made = self._build()
            except BaseException as error:  # A thread that ends would leave the actor unmade for ever.
                self._failures += 1
                self._trouble = f"can't be made: {in_words(error)}"
                time.sleep(pause)
                pause = min(2 * pause, _LONGEST_PAUSE_S)
            else:
                self.made.set_result(made)
                return

    def get(self) -> Any:
        """Return the actor; raises `NotMade` where it does not come to be in time."""
        try:
            return self.made.result(PATIENCE_S)
        except TimeoutError:
            raise self.not_made() from None

    def not_made(self) -> NotMade:
        """Say why the actor is not there, as an error."""
        return NotMade(self._trouble)

    def vitals(self) -> HostVitals:
        """Say how the process is, and the actor in it; never waits."""
        vitals = Vitals(time.monotonic() - self._began, None, self._trouble)
        is_made = self.made.done()
        if is_made:
            say: Callable[[], Vitals] | None = getattr(self.made.result(), "vitals", None)
            vitals = replace(vitals, trouble=None) if say is None else say()
        return HostVitals(self._born, socket.gethostname(), is_made, self._failures, vitals)
