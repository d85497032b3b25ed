"""The sums that ridge regression needs of one domain's rows, kept in the smaller of two forms.

Few rows are kept as they are; once they would take more room than their sums they are folded into

    gram = sum_i x_i x_i^T   (packed symmetric, see `learning.symmetric`)      sum_D = sum_i x_i

which with one-hot targets is all that ridge regression asks of a domain. Does not know of other domains, of the ridge
or of weights.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.linalg import blas

from learning.symmetric import Float64, add_outer, packed_length

FOLD_ROWS = 512
"""Rows gathered before a rank-k update: enough for BLAS-3 speed, few enough to keep in memory twice."""


@dataclass(frozen=True, eq=False)
class Sums:
    """Count, sum vector float64[d] and packed Gram float64[d(d+1)/2] of some rows of one domain."""

    count: int
    sum_D: Float64  # noqa: N815 - shape suffix
    gram: Float64

    @staticmethod
    def of(rows_ND: Float64) -> Sums:
        """The sums of `rows_ND`, float64[n, d]."""
        gram = np.zeros(packed_length(rows_ND.shape[1]))
        add_outer(gram, np.ascontiguousarray(rows_ND))
        return Sums(len(rows_ND), rows_ND.sum(axis=0), gram)


class DomainMoments:
    """One domain's rows, exactly summed; rows handed in are kept by reference and never written to."""

    def __init__(self, dim: int) -> None:
        self.dim = dim
        self._blocks: list[Float64] = []
        self._block_rows = 0
        self._sums: Sums | None = None

    @property
    def count(self) -> int:
        """Rows summed so far."""
        return self._block_rows + (self._sums.count if self._sums else 0)

    @property
    def sums(self) -> Sums | None:
        """The folded part, or None while every row is kept."""
        return self._sums

    def rows(self) -> Float64:
        """The rows that are not folded, float64[n, d], joined into one block."""
        if len(self._blocks) != 1:
            self._blocks = [np.concatenate([np.empty((0, self.dim)), *self._blocks])]
        return self._blocks[0]

    def sum_vector(self) -> Float64:
        """The sum of all rows, float64[d]."""
        total: Float64 = self.rows().sum(axis=0)
        return total if self._sums is None else total + self._sums.sum_D

    def add_rows(self, rows_ND: Float64) -> None:
        """Takes in C-contiguous float64[n, d] rows, folding when the sums are the smaller form."""
        self._blocks.append(rows_ND)
        self._block_rows += len(rows_ND)
        limit = (self.dim + 1) // 2
        if self._sums is not None:
            limit = min(limit, FOLD_ROWS)
        if self._block_rows > limit:
            self._fold()

    def add_sums(self, sums: Sums) -> None:
        """Takes in sums that were made elsewhere."""
        own = self._sums
        if own is None:
            self._sums = Sums(sums.count, sums.sum_D.copy(), sums.gram.copy())
        else:
            own.gram[:] += sums.gram
            self._sums = Sums(own.count + sums.count, own.sum_D + sums.sum_D, own.gram)

    def add_gram_to(self, packed: Float64, weight: float = 1.0) -> None:
        """packed += weight * gram of all rows, in place."""
        if self._sums is not None:
            add_scaled(packed, self._sums.gram, weight)
        add_outer(packed, self.rows(), alpha=weight)

    def _fold(self) -> None:
        rows = self.rows()
        if self._sums is None:
            self._sums = Sums.of(rows)
        else:
            add_outer(self._sums.gram, rows)
            count = self._sums.count + len(rows)
            self._sums = Sums(count, self._sums.sum_D + rows.sum(axis=0), self._sums.gram)
        self._blocks = []
        self._block_rows = 0


def add_scaled(target: Float64, source: Float64, weight: float) -> None:
    """target += weight * source, in place and without a temporary of their size."""
    blas.daxpy(source, target, a=weight)
