"""Whether requests may begin: while something is changed that none may see by halves, they wait at the door.

Knows neither what is changed nor what a request is.
"""

from __future__ import annotations

import asyncio

from serving.errors import Unavailable


class Admission:
    """Open at first. A request waits for at most `patience_seconds`. Used on one event loop only."""

    def __init__(self, patience_seconds: float) -> None:
        self._patience = patience_seconds
        self._open = asyncio.Event()
        self._open.set()
        self._why = ""

    @property
    def is_open(self) -> bool:
        return self._open.is_set()

    def close(self, why: str) -> None:
        """Let nobody in; `why` is for those who run out of patience."""
        self._why = why
        self._open.clear()

    def open(self) -> None:
        """Let in those who wait, and whoever comes."""
        self._open.set()

    async def enter(self) -> None:
        """Return once it is open. Raises Unavailable where that takes too long."""
        try:
            async with asyncio.timeout(self._patience):
                await self._open.wait()
        except TimeoutError:
            raise Unavailable(f"{self._why}; waited {self._patience:g} s for its end, come again") from None
