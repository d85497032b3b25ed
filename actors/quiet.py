"""For how long each domain has been quiet on this worker, by a clock that nobody sets."""

from __future__ import annotations

import time
from collections.abc import Iterable


class Quiet:
    """Ages in seconds. They count from this worker's start at the earliest: while it was down, nothing was quiet."""

    def __init__(self) -> None:
        self._started = time.monotonic()
        self._stirred: dict[str, float] = {}

    def stir(self, domains: Iterable[str]) -> None:
        """Note that something of these domains was heard just now."""
        now = time.monotonic()
        self._stirred.update(dict.fromkeys(domains, now))

    def seconds(self, domain: str) -> float:
        """Return for how long nothing of the domain was heard."""
        return time.monotonic() - self._stirred.get(domain, self._started)

    def all(self) -> dict[str, float]:
        """Return for how long nothing was heard, of each domain that was heard of."""
        now = time.monotonic()
        # A copy: whoever reports is another thread than those that stir.
        return {domain: now - stirred for domain, stirred in dict(self._stirred).items()}
