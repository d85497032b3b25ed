"""How a prompt scores for each column of the router, and whether the router keeps it or leaves it to the base.

Scores and confidence are the router's own (`learning.served_router`); here they meet the features of a text, and get
the names that a request knows them by. Knows no adapter, no request and no thread.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from serving.abstained import BACKGROUND, Abstained, low_confidence

if TYPE_CHECKING:
    from learning.features import FeatureExtractor
    from learning.served_router import Decisions, ServedRouter


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
        return [
            Decision(dict(zip(found.domains, scores_K.tolist(), strict=True)), float(confidence), why)
            for scores_K, confidence, why in zip(found.scores_NK, found.confidence_N, self._why(found), strict=True)
        ]

    def _why(self, found: Decisions) -> Iterator[Abstained | None]:
        """Of each prompt, why it is not kept; None where it is."""
        rule = self._router.abstention
        for kept, background, confidence in zip(found.keeps_N, found.background_N, found.confidence_N, strict=True):
            if kept:
                yield None
            elif background:
                yield BACKGROUND
            else:
                yield low_confidence(float(confidence), rule.threshold, rule.keep)
