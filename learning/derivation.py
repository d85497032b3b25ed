"""Router weights from the sums: (A + ridge I) W = C, by whichever of two derivations is cheaper.

Cholesky of A + ridge I costs d^3/3 flop. Block Woodbury carries the inverse R = (A + ridge I)^-1 over n new rows X,

    R' = R - R X^T (I + X R X^T)^-1 X R          (Any-SSR, arXiv 2503.13575, block form)

at about 3 n d^2 + 2 n^2 d flop, and 4 k d^2 more to measure k columns against A and to correct them: cheaper while
3 n + 4 k is below roughly d/3. R is only ever derived from A, never the state: whatever W it gives is measured against
A. For a residual r = C - (A + ridge I) w the predictions on all rows seen are wrong by at most ||r|| / (2 sqrt(ridge)),
because no singular value of X (X^T X + ridge I)^-1 exceeds 1 / (2 sqrt(ridge)); where that bound is not small against
the targets, R is dropped and A is factored anew. What passes is corrected by its residual once more, because a
discriminant (`learning.heads`) divides what is left of an error by how little its classes spread.

Does not know of domains, counts or fingerprints.
"""

from __future__ import annotations

import math

import numpy as np
from scipy.linalg import LinAlgError, blas, cho_factor

from learning.errors import SolveError
from learning.moments import FOLD_ROWS
from learning.symmetric import Float64, add_diagonal, add_outer, factor, invert_factored, solve_factored, times

_COLUMNS = 64
"""Columns derived at once: enough for BLAS-3 speed, few enough that what lies in between takes little memory."""
TOLERANCE = 1e-11
"""Largest certified prediction error over all rows seen, relative to the targets' norm, that Woodbury may leave."""


def update_inverse(inverse: Float64, rows_ND: Float64) -> None:
    """Carries a packed inverse over `rows_ND` (float64[n, d]) in place, in blocks of at most 512 rows."""
    for start in range(0, len(rows_ND), FOLD_ROWS):
        block_ND = rows_ND[start : start + FOLD_ROWS]
        gain_DN = times(inverse, block_ND.T)
        inner_NN = block_ND @ gain_DN
        inner_NN.flat[:: len(block_ND) + 1] += 1.0
        root_NN, _ = cho_factor(inner_NN, lower=True, overwrite_a=True, check_finite=False)
        # gain L^-T gives the correction as one symmetric rank-n update
        half_DN = blas.dtrsm(1.0, root_NN, gain_DN, side=1, lower=1, trans_a=1, overwrite_b=1)
        add_outer(inverse, half_DN.T, alpha=-1.0)


class Derivation:
    """Derives weights from a packed Gram matrix and remembers the inverse between calls while that pays."""

    def __init__(self, dim: int, ridge: float) -> None:
        self.dim = dim
        self.ridge = ridge
        self.method = "none"
        """How the last weights came about: cholesky, woodbury, or reanchored (Woodbury failed its residual check)."""
        self._inverse: Float64 | None = None
        self._unseen: list[Float64] = []
        self._new_rows = math.inf
        self._columns = 0

    def note(self, rows_ND: Float64) -> None:
        """Rows that have been added to the Gram matrix since the last solve."""
        self._new_rows += len(rows_ND)
        if self._inverse is None:
            return
        if self._update_pays():
            self._unseen.append(rows_ND)
        else:
            self._drop()

    def forget(self) -> None:
        """The Gram matrix has changed in a way that no few rows explain."""
        self._new_rows = math.inf
        self._drop()

    def solve(self, gram: Float64, targets_DK: Float64, norms_K: Float64) -> Float64:
        """W float64[d, k] from the packed Gram matrix and C; `norms_K` are the norms of the target columns.

        `targets_DK` is C, and consumed: W may take its place. Raises `SolveError` when A + ridge I is not positive
        definite in float64, or not finite, or gives a W that is not finite.
        """
        self._columns = targets_DK.shape[1]
        weight_DK = None
        reanchor = False
        if self._inverse is not None:
            weight_DK = self._by_woodbury(self._inverse, gram, targets_DK, norms_K)
            reanchor = weight_DK is None
        self.method = "woodbury" if weight_DK is not None else ("reanchored" if reanchor else "cholesky")
        if weight_DK is None:
            weight_DK = self._by_cholesky(gram, targets_DK)
        self._new_rows = 0
        return weight_DK

    def inverse(self, gram: Float64) -> Float64:
        """(A + ridge I)^-1, packed, from the packed Gram matrix by Cholesky: d^3 flop. Raises as `solve`."""
        inverse = invert_factored(self._factored(gram), self.dim)
        self._check_finite("inverse", inverse)
        return inverse

    def _by_cholesky(self, gram: Float64, targets_DK: Float64) -> Float64:
        self._drop()
        factored = self._factored(gram)
        for piece in self._pieces():
            targets_DK[:, piece] = solve_factored(factored, targets_DK[:, piece])
        self._check_finite("weights", targets_DK)
        # The inverse costs two more factorisations: worth it only where one small step has just followed another.
        if self._update_pays():
            self._inverse = invert_factored(factored, self.dim)
        return targets_DK

    def _factored(self, gram: Float64) -> Float64:
        # An infinite Gram matrix can be factored, and gives weights that are finite and mean nothing.
        self._check_finite("sums", gram)
        regularised = gram.copy()
        add_diagonal(regularised, self.dim, self.ridge)
        return factor(regularised, self.dim, f"router with ridge {self.ridge:g}")

    def _by_woodbury(self, inverse: Float64, gram: Float64, targets_DK: Float64, norms_K: Float64) -> Float64 | None:
        if self._unseen:
            try:
                update_inverse(inverse, np.concatenate(self._unseen))
            except LinAlgError:
                # Rounding has left an inverse that is not positive definite any more.
                return None
            self._unseen = []
        weight_DK = np.empty_like(targets_DK)
        for piece in self._pieces():
            derived = self._certified(inverse, gram, targets_DK[:, piece], norms_K[piece])
            if derived is None:
                return None
            weight_DK[:, piece] = derived
        return weight_DK

    def _certified(self, inverse: Float64, gram: Float64, targets_DK: Float64, norms_K: Float64) -> Float64 | None:
        weight_DK = times(inverse, targets_DK)
        for _ in range(2):  # as derived, then once refined against A
            residual_DK = targets_DK - times(gram, weight_DK) - self.ridge * weight_DK
            bound_K = np.linalg.norm(residual_DK, axis=0) / (2.0 * math.sqrt(self.ridge))
            weight_DK = weight_DK + times(inverse, residual_DK)
            if np.all(bound_K <= TOLERANCE * norms_K):
                return weight_DK
        return None

    def _check_finite(self, what: str, values: Float64) -> None:
        # One that is not finite makes their sum so, which takes no memory.
        if not math.isfinite(float(values.sum())):
            raise SolveError(
                f"router with ridge {self.ridge:g}: its {what} are not finite; look for a domain whose features are "
                "not finite or astronomically large, and remove it"
            )

    def _pieces(self) -> list[slice]:
        return [slice(first, first + _COLUMNS) for first in range(0, self._columns, _COLUMNS)]

    def _update_pays(self) -> bool:
        rows = self._new_rows
        update = 3.0 * rows * self.dim**2 + 2.0 * rows**2 * self.dim
        return update + 4.0 * self._columns * self.dim**2 < self.dim**3 / 3.0

    def _drop(self) -> None:
        self._inverse = None
        self._unseen = []
