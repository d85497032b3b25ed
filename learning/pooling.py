"""From hidden states of many tokens to one vector a text, on the device that the states lie on.

float64 states are pooled in float64, all narrower ones in float32. Padding never counts. Does not know of layers, texts
or what the vectors are for.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from learning.feature_options import Pooling


def pool(states_BTH: Tensor, lengths_B: Tensor, poolings: Sequence[Pooling]) -> Tensor:
    """Pooled states [b, len(poolings) * h], pooling by pooling; the first `lengths_B` (at least 1) positions count."""
    exact_BTH = states_BTH.to(torch.promote_types(states_BTH.dtype, torch.float32))
    lengths_B = lengths_B.to(exact_BTH.device)
    mask_BT = torch.arange(exact_BTH.shape[1], device=exact_BTH.device) < lengths_B[:, None]
    share_B1T = (mask_BT.to(exact_BTH.dtype) / lengths_B[:, None])[:, None, :]
    parts: list[Tensor] = []
    for pooling in poolings:
        if pooling == "mean":
            parts.append((share_B1T @ exact_BTH)[:, 0])
        elif pooling == "max":
            parts.append(exact_BTH.masked_fill(~mask_BT[:, :, None], -torch.inf).amax(dim=1))
        elif pooling == "std":
            centred_BTH = exact_BTH - share_B1T @ exact_BTH
            parts.append((share_B1T @ centred_BTH.square_())[:, 0].sqrt_())
        else:
            parts.append(exact_BTH[torch.arange(len(exact_BTH), device=exact_BTH.device), lengths_B - 1])
    return torch.cat(parts, dim=1)
