"""Centre and scale of pooled features, fitted once and then frozen for the life of a deployment.

z = (pooled - mean) / scale. Pooled hidden states have a few coordinates hundreds of times larger than the rest; a fixed
random expansion would see nothing else. Does not know which texts it was fitted on.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from learning.errors import LearningError
from learning.symmetric import Float64

_FLOOR = 1e-3
"""Scale, relative to the median scale, below which a coordinate hardly varies."""
_LARGEST = 1e12
"""Magnitude beyond which a pooled feature is taken for a fault: models are known to reach a millionth of it."""
_ULPS = 64.0
"""Relative rounding errors of a coordinate's or the typical magnitude by which equal values may come out different."""


@dataclass(frozen=True, eq=False)
class Standardisation:
    """Mean and scale, float64[p] each; every scale is positive."""

    mean: Float64
    scale: Float64
    name: str = ""
    """Stands for the values in `digest` where everybody fits them anew; empty lets them stand for themselves."""

    @staticmethod
    def of(pooled_NP: Float64, *, precision: float = 2.0**-52, name: str = "") -> Standardisation:
        """Fitted on pooled features float64[n, p], computed with relative rounding error `precision`.

        A coordinate that varies by no more than rounding, or hardly beside the others, keeps its scale: it is centred
        and not blown up. Raises `LearningError` for fewer than two rows and for rows that are not finite,
        or so large that one of them would hide what the others say.
        """
        if pooled_NP.ndim != 2 or len(pooled_NP) < 2:
            raise LearningError(f"fitting the standardisation: expected two rows or more, got shape {pooled_NP.shape}")
        magnitude = np.abs(pooled_NP).max(axis=0)
        if not (magnitude <= _LARGEST).all():
            raise LearningError(
                f"fitting the standardisation on {len(pooled_NP)} rows: expected finite numbers up to {_LARGEST:g}, "
                "got others; use another dtype, or look at the base model's weights"
            )
        mean, scale = pooled_NP.mean(axis=0), pooled_NP.std(axis=0)
        # A coordinate's own rounding error, and what a sum of terms of the usual size leaves when it cancels.
        noise = _ULPS * precision * np.maximum(magnitude, np.median(magnitude))
        varies = scale > noise
        floor = _FLOOR * float(np.median(scale[varies])) if varies.any() else 0.0
        return Standardisation(mean, np.where(varies & (scale > floor), scale, 1.0), name)

    def apply(self, pooled_NP: Float64) -> Float64:
        """Standardised features, float64[n, p]. Raises `LearningError` for another width."""
        if pooled_NP.shape[1:] != self.mean.shape:
            raise LearningError(f"standardising shape {pooled_NP.shape}: this standardisation is for {self.mean.shape}")
        standardised: Float64 = (pooled_NP - self.mean) / self.scale
        return standardised

    @cached_property
    def digest(self) -> str:
        """The name, or without one the sha256 over both vectors' bytes."""
        return self.name or hashlib.sha256(self.mean.tobytes() + self.scale.tobytes()).hexdigest()
