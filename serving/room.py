"""What a request needs of the engine besides its tokens: its adapter's turn in the batch, and the adapter in place.

The turn comes first. While requests wait for it, the adapters that come next are brought in. Knows names and rows, no
request.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from serving.engine import LoadedAdapter
from serving.errors import EngineFailed, PrepareFailed, Unavailable
from serving.options import EngineKnobs
from serving.residency import Residency
from serving.slots import Seat, Slots


class EngineRoom:
    """As many adapters and rows at once as `knobs` says."""

    def __init__(self, residency: Residency, knobs: EngineKnobs) -> None:
        self._residency = residency
        self._slots = Slots(knobs.max_loras, knobs.max_num_seqs, knobs.patience_seconds, self._prefetch)
        self._near = knobs.max_cpu_loras

    @property
    def waiting(self) -> int:
        """Requests that wait for their turn."""
        return self._slots.waiting

    def stay(self, adapter: LoadedAdapter | None, rows: int) -> Stay:
        """A request's time in the engine, to be begun."""
        return Stay(self, adapter, rows)

    @asynccontextmanager
    async def in_place(self, adapter: LoadedAdapter | None) -> AsyncIterator[None]:
        """The adapter in the engine, without a turn. Raises Unavailable where it can't be had now."""
        if adapter is None:
            yield
            return
        await self._use(adapter)
        try:
            yield
        finally:
            self._residency.leave(adapter)

    async def _enter(self, adapter: LoadedAdapter | None, rows: int) -> Seat:
        seat = await self._slots.enter(adapter.name if adapter is not None and adapter.rank else None, rows)
        try:
            if adapter is not None:
                await self._use(adapter)
        except BaseException:
            seat.leave()
            raise
        return seat

    async def _use(self, adapter: LoadedAdapter) -> None:
        try:
            await self._residency.use(adapter)
        except PrepareFailed as error:
            raise Unavailable(f"{adapter.name} can't be had now: {error.what}; {error.remedy}") from error
        except EngineFailed as error:
            raise Unavailable(f"{adapter.name} can't be had now: {error}") from error

    def _leave(self, adapter: LoadedAdapter | None, seat: Seat) -> None:
        if adapter is not None:
            self._residency.leave(adapter)
        seat.leave()

    def _prefetch(self) -> None:
        self._residency.prefetch(self._slots.upcoming(self._near))


class Stay:
    """One request's time in the engine; it ends once, however often that is said, begun or not."""

    def __init__(self, room: EngineRoom, adapter: LoadedAdapter | None, rows: int) -> None:
        self._room, self._adapter, self._rows = room, adapter, rows
        self._seat: Seat | None = None
        self._ended = False

    async def begin(self) -> None:
        """Return once the request may go to the engine. Raises Unavailable where its adapter can't be had now."""
        seat = await self._room._enter(self._adapter, self._rows)
        if self._ended:
            self._room._leave(self._adapter, seat)
        else:
            self._seat = seat

    def end(self) -> None:
        self._ended = True
        seat, self._seat = self._seat, None
        if seat is not None:
            self._room._leave(self._adapter, seat)
