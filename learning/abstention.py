"""When the router should leave a prompt to the base: a confidence, and a threshold calibrated on held-out rows.

Kinds, all from the router's own moments:

- "top": the largest score of a domain's column.
- "leverage": -log x^T (A + ridge I)^-1 x, how well the rows seen cover x; d^2 flop a row from the Cholesky factor.
- "both": z(top) + z(-log leverage), each standardised on the calibrating rows.
- "mahalanobis": minus the relative Mahalanobis distance (`learning.distance`). Under head "lda" "top" is half of the
  same with one covariance in both terms, and costs nothing.

The threshold is a low confidence of held-out rows of published domains, such that a fresh row like them is kept with a
chance of at least `keep`: of n rows the floor((1 - keep) (n + 1))-th smallest (split conformal prediction; Vovk,
Gammerman and Shafer, "Algorithmic Learning in a Random World", 2005). A fresh row is as likely in any of the n + 1
places among them; the quantile of the n alone would lose up to 1 / (n + 1) more than 1 - keep. Fewer than
1 / (1 - keep) - 1 rows can't promise it; the smallest of them is the threshold then. Equal confidences are kept or left
together. `keep` = 1, and no row at all, keep everything. A confidence that is no number, or minus infinity, is never
kept.

A column `BACKGROUND` holds what belongs to no domain; a prompt whose largest score it has gets the confidence minus
infinity. Does not know what a domain's rows are, nor how rows were held out.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import get_args

import numpy as np
from numpy.typing import ArrayLike, NDArray

from learning.distance import RelativeDistance
from learning.errors import LearningError
from learning.heads import BACKGROUND
from learning.router_options import AbstentionKind
from learning.router_weights import RouterWeights
from learning.symmetric import Float64, half_solve, packed_length

ABSTENTION_KINDS: tuple[AbstentionKind, ...] = get_args(AbstentionKind)

_ROWS = 512
"""Rows measured at once: enough for BLAS-3 speed, few enough that what lies in between takes little memory."""


@dataclass(frozen=True)
class Scale:
    """Mean and spread that a figure is standardised by."""

    mean: float = 0.0
    spread: float = 1.0

    @staticmethod
    def of(values_N: Float64) -> Scale:
        """Those of the finite values; 0 and 1 of none. Values that are all the same have the spread 1."""
        finite = values_N[np.isfinite(values_N)]
        if finite.size == 0:
            return Scale()
        spread = float(finite.std())
        return Scale(float(finite.mean()), spread if spread > 0 else 1.0)

    def apply(self, values_N: Float64) -> Float64:
        """(values - mean) / spread."""
        return (values_N - self.mean) / self.spread


@dataclass(frozen=True, eq=False)
class Abstention:
    """A calibrated rule. Raises `LearningError` where what its kind measures with is missing."""

    kind: AbstentionKind
    keep: float
    """Share of the calibrating rows that is kept, above 0 up to 1."""
    threshold: float = -math.inf
    """Least confidence that is kept."""
    rows: int = 0
    """How many rows it was calibrated on; 0 keeps everything."""
    top: Scale = Scale()
    leverage: Scale = Scale()
    """Of -log leverage."""
    factor: Float64 | None = None
    """Cholesky factor of A + ridge I, packed; kinds "leverage" and "both". Of float32 precision, to be kept as such."""
    distance: RelativeDistance | None = None
    """Kind "mahalanobis"."""

    def __post_init__(self) -> None:
        if self.kind not in ABSTENTION_KINDS:
            raise LearningError(f"abstention: expected one of {ABSTENTION_KINDS}, got {self.kind!r}")
        if not 0.0 < self.keep <= 1.0:
            raise LearningError(f"abstention: expected to keep a share above 0 up to 1, got {self.keep}")
        if (self.factor is not None) != (self.kind in ("leverage", "both")):
            raise LearningError(f"abstention {self.kind!r}: 'leverage' and 'both' need the factor, the others none")
        if (self.distance is not None) != (self.kind == "mahalanobis"):
            raise LearningError(f"abstention {self.kind!r}: 'mahalanobis' needs the distance, the others none")

    @staticmethod
    def calibrated(
        kind: AbstentionKind,
        keep: float,
        weights: RouterWeights,
        held_out: ArrayLike,
        *,
        factor: Float64 | None = None,
        distance: RelativeDistance | None = None,
    ) -> Abstention:
        """The rule for `weights` from held_out[n, d], features of the published domains' rows; n may be 0.

        `factor` is `StreamingRidge.factor()` for "leverage" and "both", `distance` is `StreamingRidge.distance` over
        the columns of `weights` for "mahalanobis". Raises `LearningError` where they are missing or not asked for.
        """
        domains = [domain for domain in weights.domains if domain != BACKGROUND]
        if distance is not None and len(distance.columns) != len(domains):
            raise LearningError(
                f"abstention: expected a distance over the columns {domains}, got one over {len(distance.columns)}"
            )
        rounded = None if factor is None else factor.astype(np.float32).astype(np.float64)
        rule = Abstention(kind, keep, factor=rounded, distance=distance)
        rows_ND = np.asarray(held_out)
        scores_NK, measured_N = weights.scores(rows_ND), rule._measured(rows_ND)
        top = Scale.of(_tops(weights.domains, scores_NK))
        leverage = Scale() if factor is None else Scale.of(measured_N)
        rule = replace(rule, rows=len(rows_ND), top=top, leverage=leverage)
        confidence_N = rule._combined(weights.domains, scores_NK, measured_N)
        return replace(rule, threshold=keeping_threshold(confidence_N, keep))

    def confidence(self, domains: Sequence[str], features: ArrayLike, scores_NK: Float64) -> Float64:
        """features[n, d] and their scores[n, k] under `domains` -> float64[n]; larger is surer of a domain."""
        return self._combined(domains, scores_NK, self._measured(np.asarray(features)))

    def keeps(self, confidence_N: Float64) -> NDArray[np.bool_]:
        """Whether each is sure enough to be answered by a domain; bool[n]."""
        return np.asarray((confidence_N >= self.threshold) & (confidence_N > -np.inf))

    def _measured(self, rows_ND: NDArray[np.floating]) -> Float64:
        """What the kind asks of the features beside their scores, float64[n]: -log leverage, or nearness, or nothing.

        -log leverage is NaN for a row of zeros, of which nothing is known.
        """
        measured_N = np.zeros(len(rows_ND))
        if self.factor is not None and self.factor.shape != (packed_length(rows_ND.shape[1]),):
            raise LearningError(f"leverage of features of shape {rows_ND.shape}: the factor is of another dimension")
        for place, block_ND in _blocks(rows_ND):
            if self.factor is not None:
                leverage_N = np.square(half_solve(self.factor, block_ND.T)).sum(axis=0)
                measured_N[place] = -np.log(np.where(leverage_N > 0, leverage_N, np.nan))
            elif self.distance is not None:
                measured_N[place] = self.distance.confidence(block_ND)
        return measured_N

    def _combined(self, domains: Sequence[str], scores_NK: Float64, measured_N: Float64) -> Float64:
        confidence_N = measured_N
        if self.kind == "top":
            confidence_N = _tops(domains, scores_NK)
        elif self.kind == "both":
            confidence_N = self.top.apply(_tops(domains, scores_NK)) + self.leverage.apply(measured_N)
        return np.where(background_wins(domains, scores_NK), -np.inf, confidence_N)


def keeping_threshold(confidence_N: Float64, keep: float) -> float:
    """The largest of n values that a fresh one, exchangeable with them, reaches with a chance of at least `keep`; the
    smallest where none does, and minus infinity of none, and for `keep` 1.

    NaN lies under everything.
    """
    if keep >= 1.0 or len(confidence_N) == 0:
        return -math.inf
    # 1 - 0.95 is a little more or less than 0.05.
    place = math.floor((1.0 - keep) * (len(confidence_N) + 1) + 1e-9)
    ordered = np.sort(np.where(np.isnan(confidence_N), -np.inf, confidence_N))
    return float(ordered[max(place, 1) - 1])


def lower_quantile(confidence_N: Float64, share: float) -> float:
    """The largest threshold under which at most `share` of the values lie; minus infinity of none, and for share 0.

    NaN lies under everything.
    """
    # 1 - 0.95 is a little more or less than 0.05.
    under = math.floor(share * len(confidence_N) + 1e-9)
    if share <= 0 or len(confidence_N) == 0:
        return -math.inf
    ordered = np.sort(np.where(np.isnan(confidence_N), -np.inf, confidence_N))
    return float(ordered[min(under, len(ordered) - 1)])


def background_wins(domains: Sequence[str], scores_NK: Float64) -> NDArray[np.bool_]:
    """Whether the background's column has the largest score, ties not counted; bool[n], all false without one."""
    if BACKGROUND not in domains:
        return np.zeros(len(scores_NK), dtype=bool)
    return np.asarray(scores_NK[:, list(domains).index(BACKGROUND)] > _tops(domains, scores_NK))


def _tops(domains: Sequence[str], scores_NK: Float64) -> Float64:
    """The largest score of a domain that is not the background, float64[n]; minus infinity without domains."""
    columns = [place for place, domain in enumerate(domains) if domain != BACKGROUND]
    tops_N: Float64 = scores_NK[:, columns].max(axis=1, initial=-np.inf)
    return tops_N


def _blocks(rows_ND: NDArray[np.floating]) -> Iterator[tuple[slice, Float64]]:
    for first in range(0, len(rows_ND), _ROWS):
        place = slice(first, first + _ROWS)
        yield place, np.ascontiguousarray(rows_ND[place], dtype=np.float64)
