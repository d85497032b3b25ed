"""Prequential accuracy: how the router in force would have routed rows just before it learned them.

Predict, then learn (Dawid, 1984): each new row of a domain in service is scored before it is counted, so that the
figure needs no rows set apart and sees a stream that drifts. In memory only, since the router's start. It is a figure
alone: what keeps it from being taken is said, and stops nothing.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable

from actors.errors import in_words
from actors.labels import domain_of
from actors.routed_share import Share
from actors.stage import Pause
from learning.errors import LearningError
from learning.router_weights import RouterWeights
from learning.served_router import ServedRouter
from learning.statistics import Statistics
from registry.errors import RegistryError
from registry.registry import Registry


class Prequential:
    """The figures of all domains, by the weights in force in a registry."""

    def __init__(self, registry: Registry) -> None:
        self._registry = registry
        self._shares: dict[str, Share] = {}
        self._digest = ""
        self._weights: RouterWeights | None = None
        """What prompts are routed by now, as the digest says; None where there is nothing, or it was not read yet."""
        self._pause = Pause()
        self._trouble: str | None = None

    def take(self, statistics: Statistics) -> None:
        """Note how rows that were not learned yet would have been routed; of sums alone nobody can tell."""
        weights = self._in_force()
        if weights is None or statistics.rows_ND is None or statistics.fingerprint != weights.fingerprint:
            return
        served = {domain_of(name) for name in weights.domains}
        rows = [place for place, domain in enumerate(statistics.row_domains) if domain in served]
        if rows:
            chosen = weights.scores(statistics.rows_ND[rows]).argmax(axis=1)
            for row, column in zip(rows, chosen, strict=True):
                self._note(statistics.row_domains[row], domain_of(weights.domains[column]))

    def _note(self, domain: str, chosen: str) -> None:
        self._shares.setdefault(domain, Share()).note(chosen, domain == chosen)

    def forget(self, domains: Iterable[str]) -> None:
        """Drop domains that were removed."""
        for domain in domains:
            self._shares.pop(domain, None)

    def shares(self) -> dict[str, Share]:
        """Return what is known of each domain."""
        return {domain: copy.deepcopy(share) for domain, share in sorted(self._shares.items())}

    def trouble(self) -> str | None:
        """Say why rows are not tried on what is in force, None where they are; what can't be read is tried again."""
        self._in_force()
        return self._trouble

    def _in_force(self) -> RouterWeights | None:
        try:
            current = self._registry.current()
            digest = current.router.digest if current is not None and current.router is not None else ""
            if digest != self._digest:
                self._digest, self._weights = digest, None
                self._pause.end()
            if current is not None and digest and self._weights is None:
                if not self._pause.is_over():
                    return None
                self._weights = ServedRouter.from_bytes(self._registry.weights(current)).weights
        except (RegistryError, LearningError, OSError) as error:
            self._trouble = f"prequential accuracy stands still: the router in force can't be read: {in_words(error)}"
            self._pause.lengthen(error)
            return None
        self._trouble = None
        return self._weights
