"""Whose turn it is: an engine batches requests of at most so many adapters, and about so many rows, at a time.

Left to itself an engine goes on with the adapters that it has begun as long as requests for them come, and any other
waits without end. Here an adapter's turn ends once another has waited for `patience`: nobody enters under it any more,
its requests run out, and the slot goes to whoever has waited longest, with all who wait beside him.

    a request enters    at once, where its adapter has a turn that goes on, or a slot is free, and rows are left
                        else in the order of arrival, passing over those whose adapter has to wait for a slot
    a turn ends         for an adapter that has waited for `patience`, and longer than those who wait for that turn: the
                        longest first, and of half of the slots at a time, so that the batch does not run empty

Rows beyond what the engine computes together would wait inside it, in an order of its own. Time is given, in seconds of
any clock that goes forward. Knows no engine, no task and no clock.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Hashable, Iterator
from dataclasses import dataclass, field


@dataclass(eq=False)
class Ticket:
    """One request: `adapter` None needs no slot. `rows`: what it generates at once."""

    adapter: Hashable | None
    rows: int
    arrived: float
    entered: float | None = None


@dataclass
class _Turn:
    began: float
    running: int = 0
    is_over: bool = False


@dataclass
class Turns:
    """`adapters`, `rows`: how many at once; a request that begins while fewer rows run may exceed them."""

    adapters: int
    rows: int
    patience: float
    _lines: dict[Hashable | None, deque[Ticket]] = field(default_factory=dict)
    """By adapter, who waits; no line is empty."""
    _turns: dict[Hashable | None, _Turn] = field(default_factory=dict)
    """By adapter, that of those whose requests are running, the base's among them."""
    _running_rows: int = 0

    def arrive(self, ticket: Ticket) -> None:
        """Queue a request."""
        self._lines.setdefault(ticket.adapter, deque()).append(ticket)

    def leave(self, ticket: Ticket) -> None:
        """A request has ended, or waits no longer."""
        if ticket.entered is None:
            line = self._lines[ticket.adapter]
            line.remove(ticket)
            if not line:
                del self._lines[ticket.adapter]
            return
        turn = self._turns[ticket.adapter]
        turn.running -= 1
        self._running_rows -= ticket.rows
        if not turn.running:
            del self._turns[ticket.adapter]

    def enter(self, now: float) -> Iterator[Ticket]:
        """Let in whoever may run now, in their order, and end the turns that others have waited long enough for."""
        while self._running_rows < self.rows and (line := self._next()) is not None:
            ticket = line.popleft()
            if not line:
                del self._lines[ticket.adapter]
            ticket.entered = now
            self._turns.setdefault(ticket.adapter, _Turn(now)).running += 1
            self._running_rows += ticket.rows
            yield ticket
        self._end_turns(now)

    def next_change(self, now: float) -> float:
        """When `enter` has to be called again if nothing happens before; infinite where nobody waits for that."""
        runs_out = (line[0].arrived + self.patience for line in self._stuck())
        return min((at for at in runs_out if at > now), default=math.inf)

    def upcoming(self) -> list[Hashable]:
        """The adapters that wait for a slot, in the order in which they get one."""
        waiting = [adapter for adapter in self._lines if adapter is not None and adapter not in self._turns]
        return sorted(waiting, key=lambda adapter: self._lines[adapter][0].arrived)

    @property
    def waiting(self) -> int:
        """Requests that wait, for a slot or for rows."""
        return sum(map(len, self._lines.values()))

    def _next(self) -> deque[Ticket] | None:
        """The line whose first has waited longest among those that have a slot."""
        is_free = self._slots_taken() < self.adapters
        found = [line for adapter, line in self._lines.items() if self._may_run(adapter, is_free)]
        return min(found, key=lambda line: line[0].arrived, default=None)

    def _may_run(self, adapter: Hashable | None, is_free: bool) -> bool:
        turn = self._turns.get(adapter)
        return is_free or adapter is None if turn is None else not turn.is_over

    def _stuck(self) -> list[deque[Ticket]]:
        """The lines that wait for a slot of others."""
        if self._slots_taken() < self.adapters:
            return []
        return [line for adapter, line in self._lines.items() if adapter is not None and adapter not in self._turns]

    def _slots_taken(self) -> int:
        return len(self._turns) - (None in self._turns)

    def _end_turns(self, now: float) -> None:
        impatient = sorted(line[0].arrived for line in self._stuck() if now >= line[0].arrived + self.patience)
        ending = sum(turn.is_over for turn in self._turns.values())
        for arrived in impatient[ending : max(1, self.adapters // 2)]:
            longest = min(self._ending_for(arrived), key=lambda turn: turn.began, default=None)
            if longest is None:
                return
            longest.is_over = True

    def _ending_for(self, arrived: float) -> list[_Turn]:
        """The turns that may end for somebody who has waited since then: longer than any of their own."""
        return [
            turn
            for adapter, turn in self._turns.items()
            if adapter is not None
            and not turn.is_over
            and (adapter not in self._lines or arrived <= self._lines[adapter][0].arrived)
        ]
