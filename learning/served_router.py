"""The router as a replica loads it: weights, and the rule by which it abstains. One value, serialised as a whole.

Does not know how either was derived, nor what answers.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from learning.abstention import Abstention, Scale, background_wins
from learning.container import pack, unpack
from learning.distance import RelativeDistance
from learning.errors import LearningError
from learning.heads import BACKGROUND, ClassMeans
from learning.rls import RouterWeights
from learning.symmetric import Float64


@dataclass(frozen=True, eq=False)
class Decisions:
    """Of n prompts: `domains` names the columns of the scores."""

    domains: tuple[str, ...]
    scores_NK: Float64  # noqa: N815 - shape suffix
    confidence_N: Float64  # noqa: N815 - shape suffix
    """Larger is surer; minus infinity where the background wins."""
    keeps_N: NDArray[np.bool_]  # noqa: N815 - shape suffix
    """False where the base should answer."""
    background_N: NDArray[np.bool_]  # noqa: N815 - shape suffix
    """True where that is because the background's column has the largest score."""

    def chosen(self) -> list[str | None]:
        """The domain of each prompt; None of one that is left to the base. Ties go to the domain that sorts first."""
        columns = [place for place, domain in enumerate(self.domains) if domain != BACKGROUND]
        if not columns:
            return [None] * len(self.scores_NK)
        best_N = self.scores_NK[:, columns].argmax(axis=1)
        return [self.domains[columns[best]] if kept else None for best, kept in zip(best_N, self.keeps_N, strict=True)]


@dataclass(frozen=True, eq=False)
class ServedRouter:
    """Weights and abstention of one publication."""

    weights: RouterWeights
    abstention: Abstention

    @property
    def domains(self) -> tuple[str, ...]:
        """What a prompt may be sent to: the columns but the background, sorted."""
        return tuple(domain for domain in self.weights.domains if domain != BACKGROUND)

    def decide(self, features: ArrayLike) -> Decisions:
        """features[n, d] -> scores, confidence, and what is kept. Raises `LearningError` on another dimension."""
        scores_NK = self.weights.scores(features)
        names = self.weights.domains
        confidence_N = self.abstention.confidence(names, features, scores_NK)
        keeps_N = self.abstention.keeps(confidence_N)
        return Decisions(names, scores_NK, confidence_N, keeps_N, background_wins(names, scores_NK))

    def restrict(self, domains: Sequence[str]) -> ServedRouter:
        """Only these columns, and the background's; the threshold stays. Raises `UnseenDomain` as weights do."""
        kept = {*domains, BACKGROUND} & {*domains, *self.weights.domains}
        weights = self.weights.restrict(sorted(kept))
        distance = self.abstention.distance
        if distance is not None:
            mine = self.domains
            distance = distance.restrict([mine.index(domain) for domain in weights.domains if domain != BACKGROUND])
        return ServedRouter(weights, replace(self.abstention, distance=distance))

    def to_bytes(self) -> bytes:
        """As safetensors; equal content gives equal bytes. An inverse takes 4 bytes an entry, 2 d (d + 1) in all."""
        weights, rule = self.weights, self.abstention
        tensors: dict[str, NDArray[Any]] = {"weight": weights.weight_DK, "bias": weights.bias_K}
        document: dict[str, Any] = {
            "domains": weights.domains,
            "fingerprint": weights.fingerprint,
            "head": weights.head,
            "kind": rule.kind,
            "keep": rule.keep,
            "threshold": None if rule.threshold == -math.inf else rule.threshold,
            "rows": rule.rows,
            "top": [rule.top.mean, rule.top.spread],
            "leverage": [rule.leverage.mean, rule.leverage.spread],
        }
        if rule.inverse is not None:
            tensors["inverse"] = rule.inverse.astype(np.float32)
        if rule.distance is not None:
            means = rule.distance.means
            tensors |= {"counts": means.counts_C, "basis": means.basis_DC, "spread": means.spread_CC}
            document |= {"gap": means.gap, "near": rule.distance.columns}
        return pack(tensors, "served_router", document)

    @staticmethod
    def from_bytes(content: bytes) -> ServedRouter:
        """The inverse of `to_bytes`. Raises `LearningError` on damaged bytes."""
        tensors, document = unpack(content, "served_router")
        try:
            distance = None
            if "basis" in tensors:
                means = ClassMeans(tensors["counts"], tensors["basis"], tensors["spread"], float(document["gap"]))
                distance = RelativeDistance(means, tuple(document["near"]))
            threshold = document["threshold"]
            rule = Abstention(
                document["kind"],
                document["keep"],
                -math.inf if threshold is None else threshold,
                document["rows"],
                Scale(*document["top"]),
                Scale(*document["leverage"]),
                tensors["inverse"].astype(np.float64) if "inverse" in tensors else None,
                distance,
            )
            domains, fingerprint = tuple(document["domains"]), document["fingerprint"]
            weights = RouterWeights(domains, tensors["weight"], fingerprint, tensors["bias"], document["head"])
        except (KeyError, TypeError) as error:
            raise LearningError(
                f"reading the served router: expected weights and a rule of abstention, got {type(error).__name__}: "
                f"{error}; the bytes are damaged or of another kind"
            ) from error
        return ServedRouter(weights, rule)
