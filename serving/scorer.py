"""How a prompt scores for each column of the router, and whether the router keeps it.

scores(x) = phi(x) W, the analytic router of Any-SSR (arXiv 2503.13575), a column for each segment of a domain; a prompt
whose top score is below `abstain_below` belongs to none. Knows no adapter, no request and no thread.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from serving.abstained import Abstained, low_confidence

if TYPE_CHECKING:
    from learning.features import FeatureExtractor
    from learning.rls import RouterWeights


@dataclass(frozen=True)
class Decision:
    """`scores`: by column, of all that are published. `confidence`: that one of them is right. `abstained`: set where
    that is not enough."""

    scores: Mapping[str, float]
    confidence: float
    abstained: Abstained | None = None

    def best(self, columns: Iterable[str]) -> str | None:
        """The one of these columns that scores highest, the first of equals; None where none has a number."""
        scored = [name for name in columns if not math.isnan(self.scores.get(name, math.nan))]
        return max(scored, key=self.scores.__getitem__, default=None)


class Scorer:
    """Immutable once made: safe to use from any thread that the extractor is safe in."""

    def __init__(self, extractor: FeatureExtractor, weights: RouterWeights, abstain_below: float) -> None:
        if not weights.domains:
            raise ValueError("a scorer needs at least one column; without any, every prompt goes to the base")
        self._extractor = extractor
        self._weights = weights
        self._abstain_below = abstain_below

    @property
    def columns(self) -> tuple[str, ...]:
        return self._weights.domains

    def route(self, texts: Sequence[str]) -> list[Decision]:
        """One decision per rendered text, in order."""
        if not texts:
            return []
        scores_NK = self._weights.scores(self._extractor.extract(list(texts)))
        return [self._decide(scores_K.tolist()) for scores_K in scores_NK]

    def _decide(self, scores_K: list[float]) -> Decision:
        top = max(scores_K)
        # A confidence that is no number compares false with everything; it must not pick an adapter.
        abstained = None if top >= self._abstain_below else low_confidence(top, self._abstain_below)
        return Decision(dict(zip(self._weights.domains, scores_K, strict=True)), top, abstained)
