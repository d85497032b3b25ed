"""Which domain a prompt belongs to: features, router scores, and abstention below a threshold.

scores(x) = phi(x) W, the analytic router of Any-SSR (arXiv 2503.13575); the domain is the arg max, and a top score
below `abstain_below` belongs to none. Knows no adapter, no request and no thread.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from learning.features import FeatureExtractor
    from learning.rls import RouterWeights


@dataclass(frozen=True)
class Decision:
    """`domain`: None where the scorer abstains. `score`: the top score. `scores`: of every domain that is published."""

    domain: str | None
    score: float
    scores: Mapping[str, float]


class Scorer:
    """Immutable once made: safe to use from any thread that the extractor is safe in."""

    def __init__(self, extractor: FeatureExtractor, weights: RouterWeights, abstain_below: float) -> None:
        if not weights.domains:
            raise ValueError("a scorer needs at least one domain; without domains every prompt goes to the base")
        self._extractor = extractor
        self._weights = weights
        self._abstain_below = abstain_below

    @property
    def domains(self) -> tuple[str, ...]:
        return self._weights.domains

    def route(self, texts: Sequence[str]) -> list[Decision]:
        """One decision per rendered text, in order. Ties go to the domain that sorts first."""
        if not texts:
            return []
        scores_NK = self._weights.scores(self._extractor.extract(list(texts)))
        return [self._decide(scores_K) for scores_K in scores_NK]

    def _decide(self, scores_K: np.ndarray) -> Decision:
        best = int(np.argmax(scores_K))
        top = float(scores_K[best])
        scores = {domain: float(score) for domain, score in zip(self._weights.domains, scores_K, strict=True)}
        # A score that is no number compares false with everything; it must not pick an adapter.
        chosen = self._weights.domains[best] if top >= self._abstain_below else None
        return Decision(chosen, top, scores)
