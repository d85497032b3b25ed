"""Prequential accuracy: how the router in force would have routed rows just before it learned them.

Predict, then learn (Dawid, 1984): each new row of a domain in service is scored before it is counted, so that the
figure needs no rows set apart and sees a stream that drifts. In memory only, since the router's start.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

_MEMORY = 0.998
"""What a row weighs after another one: the last 500 or so count."""


@dataclass
class Share:
    """Of recent rows of one domain: the share that was routed right, and how many there were since the start."""

    right: float = 0.0
    weight: float = 0.0
    rows: int = 0

    @property
    def accuracy(self) -> float:
        """0 to 1."""
        return self.right / self.weight


class Prequential:
    """The figures of all domains."""

    def __init__(self) -> None:
        self._shares: dict[str, Share] = {}

    def note(self, routed: Iterable[tuple[str, str]]) -> None:
        """Count rows, in order: the domain of each and the one it would have been routed to."""
        for domain, chosen in routed:
            share = self._shares.setdefault(domain, Share())
            share.right = share.right * _MEMORY + (domain == chosen)
            share.weight = share.weight * _MEMORY + 1.0
            share.rows += 1

    def forget(self, domains: Iterable[str]) -> None:
        """Drop domains that were removed."""
        for domain in domains:
            self._shares.pop(domain, None)

    def shares(self) -> dict[str, tuple[float, int]]:
        """Accuracy and rows by domain."""
        return {domain: (share.accuracy, share.rows) for domain, share in sorted(self._shares.items())}
