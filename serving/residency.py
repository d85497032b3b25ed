"""Which of the published adapters lie in the engine: the ones in use, and of the others those used last.

More adapters than the engine has places for is the normal case. Left to itself the engine would drop one of them and
read it again in the middle of a step, where an error ends it. So here it never comes to that: an adapter is read,
checked and loaded before anything is asked of it, for which one that nobody uses makes room, and it stays as long as it
is used. What can't be read or loaded is the failure of whoever asked for it, and is tried again by the next.

    who             waits for                                   unblocked by
    use             its adapter's coming, which others share    its end, in whatever way
    a coming        the loading before it                       its end
                    an adapter that was used until just now     a moment: the engine may not have let go of it
    prefetch        nothing; one at a time comes in before it is asked for

Knows the engine port; nothing of manifests or of requests.
"""

from __future__ import annotations

import asyncio
import itertools
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from serving.engine import Engine, LoadedAdapter
from serving.errors import EngineFailed, PrepareFailed, Unavailable

if TYPE_CHECKING:
    from serving.mixtures import Source

Read = Callable[["Source"], Awaitable[Path | None]]
"""Gives an adapter's folder after its bytes were checked here and now; None where the base answers. Raises
PrepareFailed."""

# Seconds after its last use in which an adapter is left in: by a stop string vLLM's front ends a request before its
# engine, and an adapter taken from under that one would be read again within a step.
_LET_GO = 0.05


class Residency:
    """`capacity`: adapters that the engine holds, at least one more than requests may use at a time, as a probe has a
    place of its own. Used on one event loop."""

    def __init__(self, engine: Engine, read: Read, capacity: int) -> None:
        self.unload_failure: str | None = None
        """Why an adapter that was to go is still in the engine, or None."""
        self.on_move: Callable[[str], None] = lambda event: None
        """Told of each version that was `loaded`, could not be (`failed`), or was put out to make room (`evicted`)."""
        self._engine, self._read, self.capacity = engine, read, capacity
        self._numbers = itertools.count(1)
        self._known: dict[str, tuple[LoadedAdapter, Source]] = {}
        self._resident: dict[str, float] = {}
        """By name, when the use before ended; in that order."""
        self._uses: Counter[str] = Counter()
        self._coming: dict[str, asyncio.Task[None]] = {}
        self._loading = asyncio.Lock()
        self._upcoming: Sequence[str] = ()
        self._prefetching: asyncio.Task[None] | None = None

    @property
    def known(self) -> tuple[str, ...]:
        """Full names of all that may be asked for, in the engine or not."""
        return tuple(sorted(self._known))

    @property
    def resident(self) -> tuple[str, ...]:
        """Full names of those in the engine."""
        return tuple(sorted(self._resident))

    @property
    def used(self) -> tuple[str, ...]:
        """The same, the one used last first."""
        return tuple(reversed(self._resident))

    def know(self, domain: str, source: Source) -> LoadedAdapter:
        """The adapter as the engine will know it: by one number as long as it is known, and never by that again."""
        if source.adapter not in self._known:
            adapter = LoadedAdapter(source.adapter, next(self._numbers), domain, source.rank)
            self._known[source.adapter] = adapter, source
        return self._known[source.adapter][0]

    def source(self, name: str) -> Source:
        """What one that is known is read from."""
        return self._known[name][1]

    async def use(self, adapter: LoadedAdapter, read: Read | None = None) -> None:
        """Have the adapter in the engine until `leave`; `read` is another way to read it than for all.

        Raises PrepareFailed where it can't be read, EngineFailed where it does not fit, Unavailable where the engine is
        dead or full of what it can't be rid of; nothing is to be left then.
        """
        self._uses[adapter.name] += 1
        try:
            await self._have(adapter.name, read or self._read)
        except BaseException:
            self.leave(adapter)
            raise

    def leave(self, adapter: LoadedAdapter) -> None:
        """End one use."""
        self._uses[adapter.name] -= 1
        if not self._uses[adapter.name]:
            del self._uses[adapter.name]
            if self._resident.pop(adapter.name, None) is not None:
                self._resident[adapter.name] = time.monotonic()

    def prefetch(self, names: Sequence[str]) -> None:
        """Bring in those that will be asked for next, as far as there is room beside those in use."""
        self._upcoming = names
        if self._missing() is not None and (self._prefetching is None or self._prefetching.done()):
            self._prefetching = asyncio.ensure_future(self._prefetch())

    async def forget(self, wanted: Callable[[], set[str]]) -> None:
        """Unload what is no more wanted, which is asked again after each, and know it no longer."""
        failed: set[str] = set()
        while names := [name for name in self._known if name not in wanted() and name not in failed]:
            name = names[0]
            if (coming := self._coming.get(name)) is not None:
                await asyncio.wait({coming})
            async with self._loading:
                if name in wanted():
                    continue
                if not await self._unload(name):
                    failed.add(name)
                elif name not in wanted():
                    # It may have been asked for while it went.
                    del self._known[name]

    async def close(self) -> None:
        """End what is under way."""
        tasks = {*self._coming.values(), *filter(None, [self._prefetching])}
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)

    async def _have(self, name: str, read: Read) -> None:
        if name in self._resident and name not in self._coming:
            return
        coming = self._coming.get(name)
        if coming is None:
            coming = self._coming[name] = asyncio.ensure_future(self._bring(*self._known[name], read))
            coming.add_done_callback(lambda _: self._coming.pop(name, None))
            # It may end when whoever waited for it has left.
            coming.add_done_callback(lambda done: done.cancelled() or done.exception())
        await asyncio.shield(coming)

    async def _bring(self, adapter: LoadedAdapter, source: Source, read: Read) -> None:
        try:
            folder = await read(source)
            async with self._loading:
                if adapter.rank:
                    await self._make_room()
                # Noted before it is loaded: a cancellation in between must not leave it behind in the engine.
                self._resident[adapter.name] = time.monotonic()
                try:
                    await self._engine.load(adapter, folder)
                except (EngineFailed, Unavailable):
                    del self._resident[adapter.name]
                    raise
        except (PrepareFailed, EngineFailed, Unavailable):
            self.on_move("failed")
            raise
        self.on_move("loaded")

    async def _make_room(self) -> None:
        stuck: set[str] = set()
        while sum(self._takes_room(name) for name in self._resident) >= self.capacity:
            idle = [name for name in self._resident if self._may_go(name) and name not in stuck]
            if not idle:
                raise Unavailable(f"all {self.capacity} adapters in the engine are in use; {self.unload_failure or ''}")
            # Rather not one that is about to be asked for.
            name = next((name for name in idle if name not in self._upcoming), idle[0])
            await asyncio.sleep(self._resident[name] + _LET_GO - time.monotonic())
            if self._may_go(name) and name in self._resident:
                if await self._unload(name):
                    self.on_move("evicted")
                else:
                    stuck.add(name)

    def _takes_room(self, name: str) -> bool:
        known = self._known.get(name)
        return known is not None and known[0].rank > 0

    def _may_go(self, name: str) -> bool:
        return not self._uses[name] and self._takes_room(name)

    async def _unload(self, name: str) -> bool:
        """Whether the engine is rid of it. Where it is not, that is told, and it is tried again later."""
        # Out before it is gone: who asks for it meanwhile has to have it loaded again.
        if (left := self._resident.pop(name, None)) is None:
            return True
        try:
            await self._engine.unload(self._known[name][0])
        except BaseException as error:
            self._resident[name] = left
            if not isinstance(error, EngineFailed):
                raise
            self.unload_failure = f"{name}: {error}"
            return False
        self.unload_failure = None
        return True

    def _missing(self) -> str | None:
        """The first of those that come next and would not put out one that comes before it."""
        used = sum(map(self._takes_room, self._uses))
        near = [name for name in self._upcoming if name in self._known][: max(0, self.capacity - used - 1)]
        return next((name for name in near if name not in self._resident and name not in self._coming), None)

    async def _prefetch(self) -> None:
        while (name := self._missing()) is not None:
            try:
                await self._have(name, self._read)
            except (PrepareFailed, EngineFailed, Unavailable):
                # Whoever asks for it is told why it can't be had.
                self._upcoming = [other for other in self._upcoming if other != name]
