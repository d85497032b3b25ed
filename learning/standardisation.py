"""Centre and scale of pooled features, fitted once and then frozen for the life of a deployment.

z = (pooled - mean) / scale. Pooled hidden states have a few coordinates hundreds of times larger than the rest; a fixed
random expansion would see nothing else. Does not know which examples it was fitted on.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from learning.container import pack, unpack
from learning.errors import LearningError
from learning.symmetric import Float64


@dataclass(frozen=True, eq=False)
class Standardisation:
    """Mean and scale, float64[p] each; every scale is positive."""

    mean: Float64
    scale: Float64

    @staticmethod
    def of(pooled_NP: Float64) -> Standardisation:
        """Fitted on pooled features float64[n, p]; coordinates that hardly vary are centred and not blown up.

        Raises `LearningError` for fewer than two rows.
        """
        if pooled_NP.ndim != 2 or len(pooled_NP) < 2:
            raise LearningError(f"fitting the standardisation: expected two rows or more, got shape {pooled_NP.shape}")
        scale = pooled_NP.std(axis=0)
        floor = 1e-3 * float(np.median(scale))
        return Standardisation(pooled_NP.mean(axis=0), np.where(scale > floor, scale, 1.0))

    def apply(self, pooled_NP: Float64) -> Float64:
        """Standardised features, float64[n, p]. Raises `LearningError` for another width."""
        if pooled_NP.shape[1:] != self.mean.shape:
            raise LearningError(f"standardising shape {pooled_NP.shape}: this standardisation is for {self.mean.shape}")
        standardised: Float64 = (pooled_NP - self.mean) / self.scale
        return standardised

    @cached_property
    def digest(self) -> str:
        """sha256 over both vectors' bytes."""
        return hashlib.sha256(self.to_bytes()).hexdigest()

    def to_bytes(self) -> bytes:
        """As safetensors; equal standardisations give equal bytes."""
        return pack({"mean": self.mean, "scale": self.scale}, "standardisation", {})

    @staticmethod
    def from_bytes(content: bytes) -> Standardisation:
        """The inverse of `to_bytes`. Raises `LearningError` on damaged bytes."""
        tensors, _ = unpack(content, "standardisation")
        return Standardisation(tensors["mean"], tensors["scale"])
