"""From hidden states of many tokens to one vector a text, on the device that the states lie on.

float64 states are pooled in float64, all narrower ones in float32. Padding never counts. Does not know of layers, texts
or what the vectors are for.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from learning.feature_options import Pooling


def pool(states_BTH: Tensor, lengths_B: Tensor, poolings: Sequence[Pooling]) -> Tensor:
    """Pooled states [b, len(poolings) * h], pooling by pooling; the first `lengths_B` (at least 1) positions count.

    Row by row: what is pooled stays in a CPU's cache, takes no room beside the states, and padding is never touched.
    """
    wide = torch.promote_types(states_BTH.dtype, torch.float32)
    rows = zip(states_BTH, lengths_B.tolist(), strict=True)
    return torch.stack([_pooled(states_TH[:length].to(wide), poolings) for states_TH, length in rows])


def _pooled(states_TH: Tensor, poolings: Sequence[Pooling]) -> Tensor:
    return torch.cat([_POOLINGS[pooling](states_TH) for pooling in poolings])


_POOLINGS: dict[Pooling, Callable[[Tensor], Tensor]] = {
    "mean": lambda states_TH: states_TH.mean(dim=0),
    "max": lambda states_TH: states_TH.amax(dim=0),
    "std": lambda states_TH: (states_TH - states_TH.mean(dim=0)).square_().mean(dim=0).sqrt_(),
    "last": lambda states_TH: states_TH[-1],
}
