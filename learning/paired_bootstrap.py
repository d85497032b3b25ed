"""How surely paired figures have changed: the paired percentile bootstrap (Efron, 1979).

    lower = the alpha-quantile of mean(d*) over resamples d* of the differences d, drawn with replacement

Rows are paired, so that what makes some harder than others falls out. Knows nothing of what the rows are.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

_RESAMPLES = 2_000
_SEED = 0


def lower_bound(differences: Sequence[float], confidence: float) -> float:
    """What the mean difference is at least, one-sided, with this confidence (0 to 1); the same for the same rows."""
    values_N = np.asarray(differences, dtype=np.float64)
    generator = np.random.Generator(np.random.PCG64(_SEED))
    drawn_SN = generator.integers(len(values_N), size=(_RESAMPLES, len(values_N)))
    return float(np.quantile(values_N[drawn_SN].mean(axis=1), 1.0 - confidence, method="lower"))
