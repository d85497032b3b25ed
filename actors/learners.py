"""The learners as a pool that grows and shrinks: who trains, who may be asked to, and whom it takes.

Whoever supervises the actors says again and again how each of them is, and is told which learners are wanted: it starts
and ends them. A learner that is not up, or not wanted, is handed to nobody. Before the first word of a supervisor all
learners are taken for up and wanted. It knows nothing of domains or trainings.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

from actors.errors import ActorError, Unreachable
from actors.ports import LearnerPort
from serving.api import ActorStatus

_SILENT_AFTER_S = 30.0


class Stopped(ActorError):
    """The coordinator stops: nobody begins a training any more."""


class Learners:
    """The learners by name, the first of them first; of these, `fewest` are wanted whether there is work or not. One
    beyond them is kept for `idle_seconds` after it was last needed."""

    def __init__(self, learners: Mapping[str, LearnerPort], fewest: int = 0, idle_seconds: float = 60.0) -> None:
        self._learners, self._fewest, self._idle_s = dict(learners), fewest, idle_seconds
        self._names = list(self._learners)
        self._changed = threading.Condition()
        self._busy: set[str] = set()
        self._doubted: set[str] = set()
        """Learners that were lost at work, until the supervisor speaks again: the last to be asked."""
        self._queue: list[object] = []
        """Who waits for a learner, in the order in which they came: that is the domains' turns."""
        self._wanted = frozenset(self._names)
        self._up = frozenset(self._names)
        self._needed_at: dict[str, float] = {}
        """When each learner last trained, or was wanted for work that waited."""
        self._heard_at: float | None = None
        self._is_stopped = False
        self.actors: tuple[ActorStatus, ...] = ()
        """The supervisor's last word of all actors."""

    @contextmanager
    def taken(self) -> Iterator[LearnerPort]:
        """Wait for a learner that is idle, up and wanted, each in turn, and have it alone; raises `Stopped` once this
        is stopped."""
        mine = object()
        with self._changed:
            self._queue.append(mine)
            try:
                while (name := self._free()) is None or self._queue[0] is not mine:
                    self._changed.wait()
                self._busy.add(name)
            finally:
                self._queue.remove(mine)
                self._changed.notify_all()
        try:
            yield self._learners[name]
        except Unreachable:
            self._doubted.add(name)
            raise
        finally:
            with self._changed:
                self._busy.discard(name)
                self._needed_at[name] = time.monotonic()
                self._changed.notify_all()

    def _free(self) -> str | None:
        if self._is_stopped:
            raise Stopped("the coordinator stops; the training is begun again after its start")
        free = (self._wanted & self._up) - self._busy
        return min(free, key=lambda name: (name in self._doubted, self._names.index(name)), default=None)

    def is_all_idle(self) -> bool:
        """Tell whether nobody has a learner."""
        with self._changed:
            return not self._busy

    def supervise(self, actors: Sequence[ActorStatus], work: int) -> frozenset[str]:
        """Take the supervisor's word on all actors; returns the names of the learners that are wanted now, where
        `work` trainings are under way or wait."""
        now = time.monotonic()
        with self._changed:
            self.actors, self._heard_at = tuple(actors), now
            self._doubted.clear()
            self._up = frozenset(actor.name for actor in actors if actor.state == "up")
            needed = set(self._busy)
            # Those that are up first, and else in order.
            for name in sorted(self._names, key=lambda name: (name not in self._up, self._names.index(name))):
                if len(needed) < work:
                    needed.add(name)
            self._needed_at.update(dict.fromkeys(needed, now))
            kept = {name for name, needed_at in self._needed_at.items() if now - needed_at < self._idle_s}
            wanted = {*self._names[: self._fewest], *needed, *kept}
            self._wanted = frozenset(wanted)
            self._changed.notify_all()
            return self._wanted

    def trouble(self) -> str | None:
        """Say for how long the supervisor has been silent, where that is too long; None before its first word."""
        if self._heard_at is None or (silent := time.monotonic() - self._heard_at) <= _SILENT_AFTER_S:
            return None
        return f"nobody has said for {silent:.0f} s which actors are up; what is lost may not be started again"

    def stop(self) -> None:
        """Let everybody who waits for a learner go."""
        with self._changed:
            self._is_stopped = True
            self._changed.notify_all()
