"""Where the change of one weight may lie, and what it must not touch.

    dW = L (K o M) R        L^T L = I, R R^T = I        U_h^T dW = 0, dW V_h^T = 0

L float64[out, a] and R float64[b, in] span what is free, U_h float64[out, p] and V_h float64[q, in] what is kept;
K float64[a, b] says how far each free pair may move. Does not know how they were chosen.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class FreeDirections:
    """None stands for everything among what is free, for nothing among what is kept, and for 1 as the factor K."""

    left: Tensor | None = None
    right: Tensor | None = None
    kept_left: Tensor | None = None
    kept_right: Tensor | None = None
    factor: Tensor | None = None

    @property
    def nothing(self) -> bool:
        """Whether no change is left at all."""
        return 0 in (*(() if self.left is None else self.left.shape), *(() if self.right is None else self.right.shape))

    def confined(self, change_OI: Tensor) -> Tensor:
        """float64[out, in]: the change without what of it would touch what is kept."""
        change_OI = change_OI.double()
        if self.kept_left is not None:
            kept = self.kept_left.to(change_OI.device)
            change_OI = change_OI - kept @ (kept.T @ change_OI)
        if self.kept_right is not None:
            kept = self.kept_right.to(change_OI.device)
            change_OI = change_OI - (change_OI @ kept.T) @ kept
        return change_OI


def by_weight(weight_OI: Tensor, kept: int) -> FreeDirections:
    """The `kept` greatest singular directions are kept, the others free; what W does not span is neither."""
    left, _, right = torch.linalg.svd(weight_OI.double(), full_matrices=False)
    return FreeDirections(left[:, kept:], right[kept:], left[:, :kept], right[:kept])


def beside_rows(kept_QI: Tensor | None) -> FreeDirections:
    """Everything is free but what acts on the span of these orthonormal rows."""
    if kept_QI is None or not len(kept_QI):
        return FreeDirections()
    whole_II, _ = torch.linalg.qr(kept_QI.double().T, mode="complete")
    return FreeDirections(right=whole_II[:, len(kept_QI) :].T.contiguous(), kept_right=kept_QI.double())
