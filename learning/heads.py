"""Heads: what the router's columns are made of, from one exact state (A, and the sum and count of each label's rows).

A column's rows are those of its labels; the rows of a label that is in no column count in A, and are a class of their
own. With the C classes' sums s_c, counts n_c, means mu_c = s_c / n_c, N = sum_c n_c and R = (A + ridge I)^-1:

- "ridge": the columns of W = R S, and no bias (`learning.rls`).
- "inverse_frequency": the same with row weights u_i = N / (C n_c), so that every class counts alike.
- "lda": the discriminant of classes that share one covariance and are as probable as each other. Its covariance is the
  scatter within classes, shrunk by the ridge: Sigma = (A + ridge I - M M^T) / N with M = [s_c / sqrt(n_c)], and

      score_k(x) = log N(x; mu_k, Sigma) - log N(x; m, Sigma)       m: the mean of all rows
                 = (mu_k - m)^T Sigma^-1 x - (mu_k^T Sigma^-1 mu_k - m^T Sigma^-1 m) / 2,

  which is linear in x. By Woodbury's identity (Hager, "Updating the inverse of a matrix", SIAM Review 31(2), 1989)

      Sigma^-1 / N = R + R M (I - G)^-1 M^T R,      G = M^T R M,

  so that beyond the ridge's R S it asks for a C x C solve. Scores against m rank the columns as plain ones do and are
  about 0 far from every class; their top is minus half the relative Mahalanobis distance under one covariance
  (`learning.distance`). Equal priors: what a stream happened to bring most of says little about what is asked next.

Does not know rows, stores or how A is solved.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
from scipy.linalg import cho_solve, lapack

from learning.errors import LearningError, SolveError, UnseenDomain
from learning.symmetric import Float64

Head = Literal["ridge", "inverse_frequency", "lda"]
HEADS: tuple[Head, ...] = get_args(Head)

BACKGROUND = "#background"
"""The column that means no domain: where it wins, the base answers. A label like every other to the sums."""

_LEAST_SPREAD = 1e-10
"""Size of I - G in its least direction, below which rounding leaves fewer than about six digits of a discriminant."""


@dataclass(frozen=True)
class Classes:
    """Which labels count as one: those of each column, then each label that is in none."""

    columns: tuple[str, ...]
    """Sorted."""
    labels: tuple[tuple[str, ...], ...]
    """Of each class, sorted; the columns' come first."""

    @staticmethod
    def of(columns: Mapping[str, Sequence[str]] | None, known: Sequence[str]) -> Classes:
        """Columns over the `known` labels; None makes one of each label.

        Raises `UnseenDomain` for a label that is not known, `LearningError` for a column without labels or a label that
        two columns name.
        """
        named = {label: (label,) for label in known} if columns is None else columns
        names = tuple(sorted(named))
        parts = [tuple(sorted(named[name])) for name in names]
        taken = [label for part in parts for label in part]
        unknown = sorted(set(taken) - set(known))
        if unknown:
            raise UnseenDomain(f"columns over the labels {unknown}: the router knows {sorted(known)}")
        empty = [name for name, part in zip(names, parts, strict=True) if not part]
        twice = sorted({label for label in taken if taken.count(label) > 1}) if len(set(taken)) < len(taken) else []
        if empty or twice:
            raise LearningError(
                f"columns of the router: expected labels for each and each label once, got none for {empty} and "
                f"{twice} more than once"
            )
        rest = tuple((label,) for label in sorted(set(known) - set(taken)))
        return Classes(names, (*parts, *rest))

    def counts(self, counts: Mapping[str, int]) -> Float64:
        """Rows of each class, float64[c], from those of each label."""
        return np.array([float(sum(counts[label] for label in part)) for part in self.labels])


@dataclass(frozen=True, eq=False)
class ClassMeans:
    """The classes' means in the metric of R: all that discriminant and relative distance need."""

    counts_C: Float64  # noqa: N815 - shape suffix
    basis_DC: Float64  # noqa: N815 - shape suffix
    """R M."""
    spread_CC: Float64  # noqa: N815 - shape suffix
    """H = (I - G)^-1, symmetric."""
    gap: float
    """1 - q^T G q with q = sqrt(n / N): how much of the mean of all rows R takes for spread about it."""

    @staticmethod
    def of(sums_DC: Float64, ridge_DC: Float64, counts_C: Float64) -> ClassMeans:
        """From S, R S and the counts. Raises `SolveError` where the spread within classes is lost in rounding."""
        roots_C = np.sqrt(counts_C)
        basis_DC = ridge_DC / roots_C
        inner_CC = (sums_DC / roots_C).T @ basis_DC
        gap_CC = np.eye(len(counts_C)) - (inner_CC + inner_CC.T) / 2.0
        shares_C = np.sqrt(counts_C / counts_C.sum())
        gap = float(shares_C @ gap_CC @ shares_C)
        root_CC, info = lapack.dpotrf(gap_CC, lower=1, clean=1)
        # G lies between 0 and I, so that 1 / ||H|| is how much of I the subtraction has left.
        spread = lapack.dpocon(root_CC, 1.0, uplo="L")[0] if info == 0 else 0.0
        if not spread > _LEAST_SPREAD:
            raise SolveError(
                f"discriminant of {len(counts_C)} classes: what their rows spread is {spread:.1e} of what their means "
                f"are long, expected more than {_LEAST_SPREAD:g}, below which rounding decides; raise the ridge, "
                "observe more rows, or take head 'ridge' and an abstention other than 'mahalanobis'"
            )
        spread_CC = cho_solve((root_CC, True), np.eye(len(counts_C)))
        return ClassMeans(counts_C, basis_DC, (spread_CC + spread_CC.T) / 2.0, gap)

    @property
    def total(self) -> float:
        """N."""
        return float(self.counts_C.sum())

    def shares(self) -> Float64:
        """q = sqrt(n / N), float64[c]: M q is the mean of all rows, times sqrt(N)."""
        shares_C: Float64 = np.sqrt(self.counts_C / self.total)
        return shares_C

    def discriminant(self, columns: int) -> tuple[Float64, Float64]:
        """Weights float64[d, k] and biases float64[k] of the first `columns` classes, in nats."""
        total, counts_K, shares_C = self.total, self.counts_C[:columns], self.shares()
        pooled_C = self.spread_CC @ shares_C
        mixed_CK = self.spread_CC[:, :columns] / np.sqrt(counts_K) - (pooled_C / np.sqrt(total))[:, None]
        # M^T Sigma^-1 M / N = G H = H - I
        lengths_K = (self.spread_CC.diagonal()[:columns] - 1.0) / counts_K
        bias_K = -total / 2.0 * (lengths_K - (float(shares_C @ pooled_C) - 1.0) / total)
        return total * (self.basis_DC @ mixed_CK), bias_K
