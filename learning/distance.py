"""Relative Mahalanobis distance: how much nearer a prompt lies to a domain than to prompts at large.

    confidence(x) = -min_k (MD_k(x) - MD_0(x))      Ren et al., "A Simple Fix to Mahalanobis Distance for Improving
                                                    Near-OOD Detection", arXiv 2106.09022
    MD_k = (x - mu_k)^T Sigma^-1 (x - mu_k),        Sigma   = (A + ridge I - M M^T) / N: the scatter within classes
    MD_0 = (x - m)^T Sigma_0^-1 (x - m),            Sigma_0 = (A + ridge I - N m m^T) / N: the scatter about the mean

in the notation of `learning.heads`. Both covariances have the divisor N and are A + ridge I less a few directions:

    Sigma^-1 / N = R + R M H M^T R,      Sigma_0^-1 / N = R + R M q q^T M^T R / (1 - g),
    q = sqrt(n / N),      g = q^T G q,      M q = sqrt(N) m.

So x^T R x, the only term that needs the d x d inverse, is in both and cancels, and what is left is a function of
y = M^T R x: of the C ridge scores of x, each over sqrt(n_c).

    (MD_k - MD_0) / N = y^T H y - 2 (H y)_k / sqrt(n_k) + (H_kk - 1) / n_k
                        - [(q^T y)^2 - 2 (q^T y) / sqrt(N) + g / N] / (1 - g)

With a single class both distances are the same, and the confidence is 0 for every prompt.

Does not know what is kept or refused.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from learning.heads import ClassMeans
from learning.symmetric import Float64


@dataclass(frozen=True, eq=False)
class RelativeDistance:
    """The classes' means, of which the first are what a prompt may be near to."""

    means: ClassMeans
    columns: tuple[int, ...]
    """The classes that count for the minimum; the others only for the two covariances."""

    def confidence(self, features_ND: Float64) -> Float64:
        """features float64[n, d] -> minus the least relative distance, float64[n]; larger is nearer. -inf of none."""
        if not self.columns:
            return np.full(len(features_ND), -np.inf)
        means, total, picked = self.means, self.means.total, list(self.columns)
        counts_K, spread_CC, shares_C = means.counts_C[picked], means.spread_CC, means.shares()
        y_NC = features_ND @ means.basis_DC
        spread_NC = y_NC @ spread_CC
        within_N = np.einsum("nc,nc->n", y_NC, spread_NC)
        offset_K = (spread_CC.diagonal()[picked] - 1.0) / counts_K
        near_N = (2.0 * spread_NC[:, picked] / np.sqrt(counts_K) - offset_K).max(axis=1)
        along_N = y_NC @ shares_C
        about_N = (along_N**2 - 2.0 * along_N / np.sqrt(total) + (1.0 - means.gap) / total) / means.gap
        confidence_N: Float64 = total * (near_N - within_N + about_N)
        return confidence_N

    def restrict(self, columns: Sequence[int]) -> RelativeDistance:
        """Near to fewer: the classes at these places of `columns`."""
        return RelativeDistance(self.means, tuple(self.columns[place] for place in columns))
