"""How a prompt scores for each column of the router, and whether the router keeps it or leaves it to the base.

Scores and confidence are the router's own (`learning.served_router`); here they meet the features of a text, and get
the names that a request knows them by. Knows no adapter, no request and no thread.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from learning.heads import BACKGROUND
from serving.abstained import Abstained, background, low_confidence

if TYPE_CHECKING:
    from learning.features import FeatureExtractor
    from learning.served_router import ServedRouter
    from learning.symmetric import Float64


@dataclass(frozen=True)
class Decision:
    """`scores`: by column, of all that are published. `confidence`: that one of them is right. `abstained`: set where
    that is not enough. `threshold`: what would be."""

    scores: Mapping[str, float]
    confidence: float
    abstained: Abstained | None = None
    threshold: float = -math.inf

    def best(self, columns: Iterable[str]) -> str | None:
        """The one of these columns that scores highest, the first of equals; None where none has a number."""
        scored = [name for name in columns if not math.isnan(self.scores.get(name, math.nan))]
        return max(scored, key=self.scores.__getitem__, default=None)


class Scoring(Protocol):
    """Whoever has texts scored without keeping the event loop."""

    async def route(self, scorer: Scorer, texts: Sequence[str]) -> list[Decision]:
        """One decision per rendered text, in order. Raises what `scorer.route` raises."""


class Scorer:
    """Immutable once made: safe to use from any thread that the extractor is safe in."""

    def __init__(self, extractor: FeatureExtractor, router: ServedRouter) -> None:
        if not router.domains:
            raise ValueError("a scorer needs at least one column; without any, every prompt goes to the base")
        self._extractor = extractor
        self._router = router

    @property
    def columns(self) -> tuple[str, ...]:
        return self._router.domains

    def route(self, texts: Sequence[str]) -> list[Decision]:
        """One decision per rendered text, in order."""
        if not texts:
            return []
        found = self._router.decide(self._extractor.extract(list(texts)))
        rows = zip(found.scores_NK, found.confidence_N, found.keeps_N, found.background_N, strict=True)
        return [self._decision(found.domains, *row) for row in rows]

    def _decision(
        self, columns: Sequence[str], scores_K: Float64, confidence: float, kept: bool, is_background: bool
    ) -> Decision:
        scores = dict(zip(columns, scores_K.tolist(), strict=True))
        abstained = None
        if is_background:
            abstained = background(scores[BACKGROUND], max(scores[name] for name in self.columns))
        elif not kept:
            rule = self._router.abstention
            abstained = low_confidence(float(confidence), rule.threshold, rule.keep)
        return Decision(scores, float(confidence), abstained, self._router.abstention.threshold)
