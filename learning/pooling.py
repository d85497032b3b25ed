"""From hidden states of many tokens to one vector a text, on the device that the states lie on.

float64 states are pooled in float64, all narrower ones in float32. Padding never counts. Does not know of layers, texts
or what the vectors are for.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import accumulate

import numpy as np
import torch
from torch import Tensor

from learning.feature_options import Pooling
from learning.symmetric import Float64


def pool(states_BTH: Tensor, lengths_B: Tensor, poolings: Sequence[Pooling]) -> Tensor:
    """Pooled states [b, len(poolings) * h], pooling by pooling; the first `lengths_B` (at least 1) positions count.

    Row by row: what is pooled stays in a CPU's cache, takes no room beside the states, and padding is never touched.
    """
    wide = torch.promote_types(states_BTH.dtype, torch.float32)
    rows = zip(states_BTH, lengths_B.tolist(), strict=True)
    return torch.stack([_pooled(states_TH[:length].to(wide), poolings) for states_TH, length in rows])


def pool_packed(states: Sequence[Float64], lengths: Sequence[int], poolings: Sequence[Pooling]) -> Float64:
    """Pooled states float64[b, len(states) * len(poolings) * h] of texts laid end to end on the host, `states` each
    float64[all tokens, h]: state by state, pooling by pooling."""
    texts = [slice(end - length, end) for end, length in zip(accumulate(lengths), lengths, strict=True)]
    states_NSH = np.stack(states, axis=1)
    pooled = [np.stack([_ON_HOST[pooling](states_NSH[text]) for pooling in poolings], axis=1) for text in texts]
    return np.stack(pooled).reshape(len(texts), -1)


def _pooled(states_TH: Tensor, poolings: Sequence[Pooling]) -> Tensor:
    return torch.cat([_POOLINGS[pooling](states_TH) for pooling in poolings])


_POOLINGS: dict[Pooling, Callable[[Tensor], Tensor]] = {
    "mean": lambda states_TH: states_TH.mean(dim=0),
    "max": lambda states_TH: states_TH.amax(dim=0),
    "std": lambda states_TH: (states_TH - states_TH.mean(dim=0)).square_().mean(dim=0).sqrt_(),
    "last": lambda states_TH: states_TH[-1],
}

_ON_HOST: dict[Pooling, Callable[[Float64], Float64]] = {
    "mean": lambda states_TSH: states_TSH.mean(axis=0),
    "max": lambda states_TSH: states_TSH.max(axis=0),
    "std": lambda states_TSH: np.sqrt(np.square(states_TSH - states_TSH.mean(axis=0)).mean(axis=0)),
    "last": lambda states_TSH: states_TSH[-1],
}
