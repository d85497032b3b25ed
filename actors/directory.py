"""The replicas that serve, and the two-phase publication of a manifest to all of them.

    publish(N):   prepare N  --->  every live replica loads N beside what it serves, and says so
                  commit N   --->  every replica that is prepared swaps one reference
                  who could not prepare in time is fenced: it stops serving, it is never mixed in

One by one: where a replica can't hold N beside what it serves (the base itself changes), it prepares N by serving it.
Then each gets its turn when the one before it has done, so that the others answer meanwhile; the first shows whether it
can be done at all, and goes back by itself if not.

Replicas pull: each holds one long call to `next_directive`, which says where it stands and returns what it shall do. So
a replica can come and go by itself, nobody keeps addresses, and a new one is led to the manifest in force by the same
directives. A replica that is silent for too long is forgotten and not waited for; it serves on with what it has, and
when it comes back it is led on as a new one is. One that can't be led to what nobody serves yet stays where it is: only
a publication, to all at once, finds whether anybody can.

Plain asyncio; this module knows neither the engine nor the transport.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from itertools import zip_longest
from typing import TYPE_CHECKING

from actors.directive import Directive, PublicationReport, Standing
from actors.errors import PublicationFailed
from actors.ports import DirectivesPort
from serving.api import ReplicaStatus

_ALONE = 2
"""So much longer may take who is led to what is in force already, as one that starts may."""


@dataclass
class _Member:
    standing: Standing
    seen: float
    fenced: str = ""
    behind_since: float | None = None
    """When it was first found behind what the directory leads to; None while it is not."""
    forgiven: int = 0
    """A manifest that it could not prepare and is to try again."""
    told: int = 0
    """The manifest that it was told last to prepare."""
    served_at: float = field(default_factory=time.time)
    """When it was first heard of at the manifest that it serves, in Unix seconds."""
    told_at: float = 0.0
    """When it was told that first, or the publication of it began."""


class ReplicaDirectory:
    """Membership and publication. `in_force` returns the number of the manifest in force when the directory starts.

    A replica not heard of for `silence_seconds` is forgotten; one that can't prepare a manifest within
    `prepare_timeout_seconds` is fenced, or within twice that where it is led after the others.
    """

    def __init__(
        self, in_force: Callable[[], int], *, silence_seconds: float = 30.0, prepare_timeout_seconds: float = 60.0
    ) -> None:
        self._committed = in_force()
        self._preparing: int | None = None
        self._one_by_one = False
        self._silence, self._timeout = silence_seconds, prepare_timeout_seconds
        self._members: dict[str, _Member] = {}
        self._used: tuple[str, ...] = ()
        """What the last to tell has used, for whoever comes when no other is left."""
        self._changed = asyncio.Condition()
        self._publishing = asyncio.Lock()

    async def next_directive(self, replica: str, standing: Standing, wait_seconds: float = 2.0) -> Directive:
        """Record where a replica stands and return its next directive, waiting up to `wait_seconds` for one."""
        async with self._changed:
            member = self._members.setdefault(replica, _Member(standing, time.monotonic()))
            if standing.serves != member.standing.serves:
                member.served_at = time.time()
            member.standing, member.seen = self._forgiven(member, standing), time.monotonic()
            if standing.preparing is not None:
                # It may have been told by a directory before this one.
                self._note_told(member, standing.preparing)
            self._note_lag(member)
            self._used = standing.used or self._used
            self._changed.notify_all()
            deadline = time.monotonic() + wait_seconds
            while (directive := self._directive(member)).action == "stay" and (left := deadline - time.monotonic()) > 0:
                try:
                    async with asyncio.timeout(left):
                        await self._changed.wait()
                except TimeoutError:
                    break
            member.seen = time.monotonic()
            if directive.action == "prepare":
                self._note_told(member, directive.number)
                member.forgiven = 0
            return directive

    async def leave(self, replica: str) -> None:
        """Forget a replica that shuts down."""
        async with self._changed:
            self._members.pop(replica, None)
            self._changed.notify_all()

    async def in_force(self) -> int:
        """Return the number of the manifest that replicas are led to."""
        return self._committed

    async def addresses(self) -> list[str]:
        """Return where the live replicas take requests, fenced ones among them."""
        return [member.standing.address for member in self._live().values() if member.standing.address]

    async def used(self) -> list[str]:
        """Return full names of adapters by how lately the live replicas have used them, or whoever lived last."""
        told = [member.standing.used for member in self._live().values() if member.standing.used] or [self._used]
        return list(dict.fromkeys(name for place in zip_longest(*told) for name in place if name is not None))

    async def replicas(self) -> dict[str, ReplicaStatus]:
        """Return the live replicas: manifest served, for how long it lags, and the reason where one is fenced."""
        now = time.monotonic()
        return {
            name: ReplicaStatus(
                manifest=member.standing.serves,
                fenced=member.fenced or None,
                lag_seconds=0.0 if member.behind_since is None else now - member.behind_since,
                since=member.served_at,
            )
            for name, member in self._live().items()
        }

    async def publish(self, number: int, one_by_one: bool = False) -> PublicationReport:
        """Bring every live replica to manifest `number`, each with as much time to prepare it as all would have at once
        where they go one by one.

        Raises `PublicationFailed` when there are replicas and none of them could prepare it; all stay where they were.
        Who could not before tries again.
        """
        async with self._publishing:
            started = time.monotonic()
            number = max(number, self._committed)
            self._preparing, self._one_by_one = number, one_by_one
            for member in self._live().values():
                self._note_lag(member)
                member.told, member.told_at = 0, started
                member.forgiven = number
                member.standing = self._forgiven(member, member.standing)
            try:
                await self._wait_for(lambda m: self._has_tried(m, number), len(self._serving()) if one_by_one else 1)
                ready = [name for name, m in self._serving().items() if self._is_prepared(m, number)]
                if self._serving() and not ready:
                    reasons = {n: m.standing.failure or "no answer in time" for n, m in self._serving().items()}
                    raise PublicationFailed(f"manifest {number}: no replica could prepare it: {reasons}")
                self._fence_unless(lambda m: self._is_prepared(m, number), number)
                self._committed = number
            finally:
                self._preparing = None
            await self._wait_for(lambda m: m.standing.serves >= number)
            self._fence_unless(lambda m: m.standing.serves >= number, number)
            return PublicationReport(
                number=number,
                replicas=len(self._serving()),
                fenced={name: member.fenced for name, member in self._live().items() if member.fenced},
                seconds=time.monotonic() - started,
            )

    # -- inside -------------------------------------------------------------------------------------------------------

    def _directive(self, member: _Member) -> Directive:
        standing, publishing, wanted = member.standing, self._preparing is not None, self._wanted()
        if member.fenced:
            return Directive("fence", standing.serves, member.fenced)
        if standing.preparing == wanted and not publishing and self._told_for(member) > _ALONE * self._timeout:
            return Directive("fence", standing.serves, f"manifest {wanted}: it does not come to be prepared")
        if standing.serves >= wanted or standing.preparing == wanted:
            return Directive("stay", standing.serves)
        if standing.prepared == wanted:
            return Directive("stay", standing.serves) if publishing else Directive("commit", wanted)
        if standing.failed == wanted:
            if publishing or (standing.serves and not self._is_served(wanted)):
                return Directive("stay", standing.serves)
            return Directive("fence", standing.serves, standing.failure)
        if publishing and self._one_by_one and any(self._is_at_it(other, wanted) for other in self._live().values()):
            return Directive("stay", standing.serves)
        return Directive("prepare", wanted)

    def _wanted(self) -> int:
        return self._committed if self._preparing is None else self._preparing

    def _is_served(self, number: int) -> bool:
        return any(member.standing.serves >= number for member in self._serving().values())

    @staticmethod
    def _forgiven(member: _Member, standing: Standing) -> Standing:
        """Return where a replica stands, without a failure from before the publication under way."""
        return replace(standing, failed=None) if standing.failed == member.forgiven else standing

    def _note_lag(self, member: _Member) -> None:
        """Note since when a replica is behind: by the manifest that is being published, as that is in force already."""
        if member.standing.serves >= self._wanted():
            member.behind_since = None
        elif member.behind_since is None:
            member.behind_since = time.monotonic()

    def _is_at_it(self, member: _Member, number: int) -> bool:
        """Tell whether a replica has been told to prepare a manifest, or does, and has not said what came of it. One
        that takes longer than it may has had its turn: the others are not to go short of time for it."""
        is_late = self._told_for(member) > self._timeout
        at_it = member.told == number or member.standing.preparing == number
        return at_it and not is_late and not self._has_tried(member, number)

    @staticmethod
    def _note_told(member: _Member, number: int) -> None:
        if member.told != number:
            member.told, member.told_at = number, time.monotonic()

    @staticmethod
    def _told_for(member: _Member) -> float:
        """Seconds since it was told to prepare what it was told last."""
        return time.monotonic() - member.told_at

    def _has_tried(self, member: _Member, number: int) -> bool:
        return self._is_prepared(member, number) or member.standing.failed == number

    @staticmethod
    def _is_prepared(member: _Member, number: int) -> bool:
        return member.standing.prepared == number or member.standing.serves >= number

    def _live(self) -> dict[str, _Member]:
        heard_since = time.monotonic() - self._silence
        self._members = {name: member for name, member in self._members.items() if member.seen >= heard_since}
        return self._members

    def _serving(self) -> dict[str, _Member]:
        return {name: member for name, member in self._live().items() if not member.fenced}

    def _fence_unless(self, good: Callable[[_Member], bool], number: int) -> None:
        for member in self._serving().values():
            if not good(member):
                failure = member.standing.failure if member.standing.failed == number else "no answer in time"
                member.fenced = f"manifest {number}: {failure}"

    async def _wait_for(self, done: Callable[[_Member], bool], times: int = 1) -> None:
        deadline = time.monotonic() + self._timeout * max(1, times)
        async with self._changed:
            self._changed.notify_all()
            while not all(done(member) for member in self._serving().values()):
                left = deadline - time.monotonic()
                if left <= 0:
                    return
                try:
                    # Woken once in a while, as silence says nothing.
                    async with asyncio.timeout(min(left, 1.0)):
                        await self._changed.wait()
                except TimeoutError:
                    continue


if TYPE_CHECKING:
    # Towards the coordinator its methods are coroutines that the way there waits for; `tests/actors` compares those.
    def _meets(actor: ReplicaDirectory) -> DirectivesPort:
        return actor
