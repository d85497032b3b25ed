"""What the system behind a replica says of itself, within seconds: a scrape must not hang on a coordinator that does.

Knows the control port only.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Generic, TypeVar

from serving.errors import ControlUnavailable

T = TypeVar("T")

PATIENCE_S = 5.0
"""Well below a scrape's own time-out, which is 10 s by Prometheus' default."""


class Within(Generic[T]):
    """A question that is answered within `seconds`, or ControlUnavailable.

    A question that is overdue is not asked again beside itself: whoever asks meanwhile waits for that one, so that what
    hangs is not given ever more to hang on.
    """

    def __init__(self, ask: Callable[[], Awaitable[T]], seconds: float = PATIENCE_S) -> None:
        self._ask, self._seconds = ask, seconds
        self._overdue: asyncio.Future[T] | None = None

    async def __call__(self) -> T:
        """The answer. Raises what the question raises, or ControlUnavailable."""
        asked = self._overdue or asyncio.ensure_future(self._ask())
        try:
            # Shielded: of those that wait for it one may go away.
            return await asyncio.wait_for(asyncio.shield(asked), self._seconds)
        except TimeoutError:
            if asked.done():
                raise
        self._overdue = asked
        asked.add_done_callback(self._came)
        raise ControlUnavailable(f"the coordinator has not answered within {self._seconds:g} s; try again in a moment")

    def _came(self, asked: asyncio.Future[T]) -> None:
        if not asked.cancelled():
            asked.exception()  # Looked at, for whoever asked may be gone.
        self._overdue = None
