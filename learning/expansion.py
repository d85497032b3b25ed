"""A fixed random expansion, the same on every machine for one seed, that costs no more than it must.

    phi_e = relu(sum of s_ei z_i over the K inputs dealt to e, over sqrt(K), + b_e),    s = +-1,   b uniform in +-1

so that a standardised z gives pre-activations of about unit variance at any width (Any-SSR, arXiv 2503.13575, has the
activation that its method needs: without one the expansion adds no power to a ridge; sparse signs instead of a dense
matrix as in Achlioptas, JCSS 66, 2003). Inputs are dealt like cards: shuffled, handed out K at a time, and shuffled
again when less than K are left, so every input is used as often as every other. Memory is O(p + K d), the work of a row
O(K d).

Shuffles, signs and b come from the raw 64-bit output of PCG64, whose stream is fixed by its definition, through exact
arithmetic, and a sum runs in one order whatever else is computed beside it: the same z gives the same phi, bit for bit,
in any batch and on any machine. Does not know what z is.
"""

from __future__ import annotations

import math

import numpy as np
from scipy.sparse import csr_array

from learning.symmetric import Float64

_DEALT = 8
"""K, the inputs that one feature looks at."""
_ROWS = 64
"""Rows expanded at a time, which bounds what is held beside the result."""


class RandomExpansion:
    """Maps standardised features [n, p] to float64[n, width]; `width` 0 passes them through unchanged."""

    scheme = f"pcg64-dealt-signs-{_DEALT}-relu-bias-1"
    """Part of the features' fingerprint: names how projection and bias are made."""

    def __init__(self, inputs: int, width: int, seed: int) -> None:
        self.width = width
        self.dim = width or inputs
        dealt = min(_DEALT, inputs)
        bits = np.random.PCG64(seed)
        columns = _dealt(bits, inputs, width, dealt)
        signs = np.where(bits.random_raw(width * dealt) >> np.uint64(63), 1.0, -1.0)
        starts = np.arange(width + 1) * dealt
        self._signs_EP = csr_array((signs, columns, starts), shape=(width, inputs))
        self._scale = 1.0 / math.sqrt(dealt)
        self._bias_E = _uniform(bits, width)

    def apply(self, features_NP: Float64) -> Float64:
        """phi, float64[n, dim]."""
        if self.width == 0:
            return features_NP
        expanded_NE = np.empty((len(features_NP), self.width))
        for start in range(0, len(features_NP), _ROWS):
            rows = slice(start, start + _ROWS)
            np.multiply((self._signs_EP @ features_NP[rows].T).T, self._scale, out=expanded_NE[rows])
        expanded_NE += self._bias_E
        return np.maximum(expanded_NE, 0.0, out=expanded_NE)


def _dealt(bits: np.random.PCG64, inputs: int, width: int, dealt: int) -> np.ndarray:
    """int64[width * dealt]: the inputs of each feature, all different, one feature behind the other."""
    a_shuffle = inputs // dealt
    shuffles = -(-width // a_shuffle)
    order = np.argsort(bits.random_raw(shuffles * inputs).reshape(shuffles, inputs), axis=1, kind="stable")
    return order[:, : a_shuffle * dealt].reshape(-1)[: width * dealt]


def _uniform(bits: np.random.PCG64, count: int) -> Float64:
    """`count` numbers in [-1, 1): 53 random bits each, so every step is exact."""
    raw = bits.random_raw(count) >> np.uint64(11)
    uniform: Float64 = raw.astype(np.float64) * 2.0**-52 - 1.0
    return uniform
