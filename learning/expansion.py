"""A fixed random expansion, the same on every machine for one seed.

    phi = relu(z P + b),   P uniform in +-sqrt(3/p) (variance 1/p),   b uniform in +-1

so that a standardised z of width p gives pre-activations of about unit variance at any p (Any-SSR, arXiv 2503.13575,
with the activation that its method needs: without one the expansion adds no power to a ridge). P and b come from the
raw 64-bit output of PCG64, whose stream is fixed by its definition, through exact arithmetic: no library's sampling
routine and no mathematical function of the platform takes part. Does not know what z is.
"""

from __future__ import annotations

import math

import numpy as np

from learning.symmetric import Float64


class RandomExpansion:
    """Maps standardised features [n, p] to float64[n, width]; `width` 0 passes them through unchanged."""

    scheme = "pcg64-uniform-relu-bias-1"
    """Part of the features' fingerprint: names how projection and bias are made."""

    def __init__(self, inputs: int, width: int, seed: int) -> None:
        self.width = width
        self.dim = width or inputs
        bits = np.random.PCG64(seed)
        self._projection_PE = _uniform(bits, inputs * width).reshape(inputs, width) * math.sqrt(3.0 / inputs)
        self._bias_E = _uniform(bits, width)

    def apply(self, features_NP: Float64) -> Float64:
        """phi, float64[n, dim]."""
        if self.width == 0:
            return features_NP
        expanded_NE = features_NP @ self._projection_PE
        expanded_NE += self._bias_E
        return np.maximum(expanded_NE, 0.0, out=expanded_NE)


def _uniform(bits: np.random.PCG64, count: int) -> Float64:
    """`count` numbers in [-1, 1): 53 random bits each, so every step is exact."""
    raw = bits.random_raw(count) >> np.uint64(11)
    uniform: Float64 = raw.astype(np.float64) * 2.0**-52 - 1.0
    return uniform
