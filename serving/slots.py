"""The door to the engine: a request waits here for its adapter's turn (`serving.turns`), on one event loop.

Knows names and rows; not what is done with them.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable

from serving.turns import Ticket, Turns


class Seat:
    """One request's seat in the engine; left once, however often it is asked to."""

    def __init__(self, slots: Slots, ticket: Ticket) -> None:
        self._slots, self._ticket = slots, ticket
        self._left = False

    def leave(self) -> None:
        if not self._left:
            self._left = True
            self._slots._leave(self._ticket)


class Slots:
    """`on_wait` is called whenever somebody begins to wait for a slot or has got one; it must not raise."""

    def __init__(
        self, adapters: int, rows: int, patience_seconds: float, on_wait: Callable[[], None] = lambda: None
    ) -> None:
        self._turns = Turns(adapters, rows, patience_seconds)
        self._on_wait = on_wait
        self._entering: dict[Ticket, asyncio.Future[None]] = {}
        self._timer: asyncio.TimerHandle | None = None

    async def enter(self, adapter: str | None, rows: int = 1) -> Seat:
        """Return once the request may go to the engine; None is the base, which needs no slot."""
        loop = asyncio.get_running_loop()
        ticket = Ticket(adapter, rows, loop.time())
        self._turns.arrive(ticket)
        self._look()
        seat = Seat(self, ticket)
        if ticket.entered is None:
            entering = self._entering[ticket] = loop.create_future()
            self._on_wait()
            try:
                await entering
            except asyncio.CancelledError:
                seat.leave()
                raise
            finally:
                del self._entering[ticket]
                self._on_wait()
        return seat

    def upcoming(self, most: int) -> list[str]:
        """Of the adapters that wait for a slot, those that get one next."""
        return [str(name) for name in self._turns.upcoming()[:most]]

    @property
    def waiting(self) -> int:
        """Requests that wait."""
        return self._turns.waiting

    def _leave(self, ticket: Ticket) -> None:
        self._turns.leave(ticket)
        self._look()

    def _look(self) -> None:
        loop = asyncio.get_running_loop()
        for ticket in self._turns.enter(loop.time()):
            entering = self._entering.get(ticket)
            # One who has just been cancelled leaves by himself.
            if entering is not None and not entering.done():
                entering.set_result(None)
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if (at := self._turns.next_change(loop.time())) < math.inf:
            self._timer = loop.call_at(at, self._look)
