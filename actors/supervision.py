"""Supervision: every actor of the system is there, or being made anew; and as many learners as there is work for.

Ray starts an actor again whose process or node has died, and sometimes gives one up: when it was killed for good, or
its owner's books say so. What is given up is made anew here; what does not answer at all is ended, so that Ray starts
it again; what waits for a node with room is left waiting, and said. Each look asks everybody at once and waits for
nobody: a question that is not answered stays open and is not asked again.

What is seen is told to the coordinator, for the status; it answers which learners it has work for, and those alone are
kept. This module knows the processes by name through a port, and no Ray.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from concurrent.futures import Future, wait
from dataclasses import dataclass, field
from typing import Protocol

from actors.errors import in_words
from actors.loop import Loop
from actors.making import HostVitals
from actors.stage import Pause
from serving.api import ActorStatus

_log = logging.getLogger(__name__)
_REST_S, _LOOK_S = 0.5, 1.0
_SILENT_LOOKS = 30
"""A process that has answered, and then leaves a question open for so many looks of a second each, is stuck: it is
ended, to be started again. Looks and no clock, so that a supervisor that was stopped itself ends nobody."""


class GivenUp(Exception):
    """An actor is dead, and nobody but its supervisor makes it anew."""


class HostsPort(Protocol):
    """The actors' processes, by name. `ask` and `advise` return at once; a future of theirs may fail with anything."""

    def make(self, name: str) -> None:
        """Have it started; where that can't be done, asking it fails with `GivenUp`."""

    def end(self, name: str) -> None:
        """Have its process ended; it is started again."""

    def dismiss(self, name: str) -> None:
        """Have its process ended for good."""

    def ask(self, name: str) -> Future[HostVitals]:
        """Ask how it is; fails with `GivenUp` where it is not to come back by itself."""

    def advise(self, actors: Sequence[ActorStatus]) -> Future[frozenset[str]]:
        """Tell the coordinator how all are; returns the learners that it has work for."""


@dataclass
class _Watched:
    """What is known of one actor."""

    name: str
    since: float
    """When it was last made, or ended, or answered: monotonic."""
    question: Future[HostVitals] | None = None
    heard: HostVitals | None = None
    """Its last answer since it was last made."""
    is_answering: bool = False
    silent_looks: int = 0
    restarts: int = 0
    trouble: str | None = None
    pause: Pause = field(default_factory=Pause)
    """Before it is made anew again."""

    def status(self, now: float) -> ActorStatus:
        if not self.is_answering or self.heard is None:
            is_lost = self.heard is not None or self.restarts > 0
            return ActorStatus(
                name=self.name,
                state="lost" if is_lost else "starting",
                restarts=self.restarts,
                progress_seconds=now - self.since,
                trouble=self.trouble or "it waits for a node with room for it",
            )
        vitals = self.heard.vitals
        return ActorStatus(
            name=self.name,
            node=self.heard.node,
            restarts=self.restarts,
            up_seconds=vitals.up_seconds,
            progress_seconds=vitals.progress_seconds,
            state="up" if self.heard.is_made else "starting",
            trouble=vitals.trouble,
        )


class Supervisor:
    """Watches `always`, and of `learners` those that the coordinator has work for, the first `fewest` of them in any
    case. `look` does it once."""

    def __init__(self, hosts: HostsPort, always: Sequence[str], learners: Sequence[str], fewest: int) -> None:
        self._hosts, self._learners = hosts, frozenset(learners)
        self._watched: dict[str, _Watched] = {}
        self._advice: Future[frozenset[str]] | None = None
        # Its process is the owner's: what fails is tried again, and nothing is mended by ending it.
        self._loop = Loop("supervise", self.look, rest_s=_REST_S, give_up=_log.critical)
        for name in (*always, *learners[:fewest]):
            self._make(name)

    def start(self) -> None:
        """Look again and again, in a thread of its own, until `stop`."""
        self._loop.start()

    def stop(self) -> None:
        """Watch no more: what ends from now on stays ended."""
        self._loop.stop()

    def look(self, wait_seconds: float = _LOOK_S) -> None:
        """Ask everybody, wait so long at most, and do what the answers ask for."""
        for each in self._watched.values():
            if each.question is None:
                each.question = self._hosts.ask(each.name)
        if self._advice is None:
            self._advice = self._hosts.advise(self.statuses())
        questions = [each.question for each in self._watched.values() if each.question is not None]
        wait(questions, wait_seconds)
        for each in list(self._watched.values()):
            self._take(each)
        if self._advice.done():
            self._follow(self._advice)
            self._advice = None

    def statuses(self) -> tuple[ActorStatus, ...]:
        """Describe every actor that is to be there."""
        now = time.monotonic()
        return tuple(each.status(now) for each in list(self._watched.values()))

    def awaited(self) -> list[str]:
        """Return the names of those that are not up."""
        return [each.name for each in self.statuses() if each.state != "up"]

    def failing(self) -> str | None:
        """Say of the first actor that can't be made at repeated tries why, or None."""
        for each in list(self._watched.values()):
            if each.is_answering and each.heard and not each.heard.is_made and each.heard.failures > 2:
                return f"{each.name} {each.heard.vitals.trouble}"
        return None

    # -- inside -------------------------------------------------------------------------------------------------------

    def _make(self, name: str) -> None:
        self._watched[name] = _Watched(name, time.monotonic())
        self._hosts.make(name)

    def _take(self, each: _Watched) -> None:
        now = time.monotonic()
        if each.question is None or not each.question.done():
            each.silent_looks += each.heard is not None
            if each.silent_looks >= _SILENT_LOOKS:
                each.question, each.silent_looks, each.is_answering, each.since = None, 0, False, now
                each.trouble = "it answered nothing for half a minute and was ended"
                self._hosts.end(each.name)
            return
        question, each.question, each.silent_looks = each.question, None, 0
        try:
            heard = question.result()
        except GivenUp as error:
            self._lose(each, error)
            if each.pause.is_over():
                each.pause.lengthen(error)
                each.heard, each.restarts = None, each.restarts + 1
                self._hosts.make(each.name)
        except Exception as error:
            self._lose(each, error)
        else:
            if each.heard is not None and heard.born != each.heard.born:
                each.restarts += 1
            each.heard, each.is_answering, each.since, each.trouble = heard, True, now, None
            if heard.is_made:
                each.pause.end()

    @staticmethod
    def _lose(each: _Watched, error: Exception) -> None:
        if each.is_answering:
            each.is_answering, each.since = False, time.monotonic()
        each.trouble = in_words(error)

    def _follow(self, advice: Future[frozenset[str]]) -> None:
        """Make the learners that are wanted and dismiss those that are not; without a word all stay."""
        try:
            wanted = advice.result() & self._learners
        except Exception:
            # The coordinator is away, and watched like the others.
            return
        for name in sorted(wanted - self._watched.keys()):
            self._make(name)
        for name in sorted((self._watched.keys() & self._learners) - wanted):
            del self._watched[name]
            self._hosts.dismiss(name)
