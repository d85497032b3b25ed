"""The products of confined linear modules, with their gradients, so that no more is kept or computed than needed.

    core:     y = x W^T + b              dx = g W             dM = L^T (g^T x) R^T o K
    factors:  y = x W_k^T + h U^T + b    h = (x V^T) s        dx = g W_k + (g U s) V

Under autocast products are made in its precision, the gradients of what is trained are float32. Does not know what
trains.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import linear


class CoreProduct(torch.autograd.Function):
    """x float[..., in], W float32[out, in], M [a, b]; b [out], L [out, a], R [b, in], K [a, b] or None."""

    @staticmethod
    def forward(
        context: Any,
        x: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        core: Tensor,
        left: Tensor | None,
        right: Tensor | None,
        factor: Tensor | None,
    ) -> Tensor:
        """See the module."""
        context.save_for_backward(x, weight, left, right, factor)
        dtype = _precision(x)
        with torch.autocast(x.device.type, enabled=False):
            return linear(x.to(dtype), weight.to(dtype), None if bias is None else bias.to(dtype))

    @staticmethod
    def backward(context: Any, gradient: Tensor) -> Any:
        """See the module."""
        x, weight, left, right, factor = context.saved_tensors
        rows_NO = gradient.reshape(-1, gradient.shape[-1])
        rows_NI = x.reshape(-1, x.shape[-1]).to(gradient.dtype)
        into = (gradient @ weight.to(gradient.dtype)).to(x.dtype) if context.needs_input_grad[0] else None
        core = None
        if context.needs_input_grad[3]:
            core = _between(rows_NO, rows_NI, left, right).float()
            core = core if factor is None else core.mul_(factor)
        return into, None, None, core, None, None, None


class FactorProduct(torch.autograd.Function):
    """x float[..., in], W_k float32[out, in], b [out] or None, U float32[out, r], s [r], V [r, in]."""

    @staticmethod
    def forward(
        context: Any, x: Tensor, kept: Tensor, bias: Tensor | None, left: Tensor, values: Tensor, right: Tensor
    ) -> Tensor:
        """See the module."""
        dtype = _precision(x)
        with torch.autocast(x.device.type, enabled=False):
            rows_NI = x.reshape(-1, x.shape[-1]).to(dtype)
            inner_NR = rows_NI @ right.to(dtype).T
            out_NO = linear(rows_NI, kept.to(dtype), None if bias is None else bias.to(dtype))
            out_NO.addmm_(inner_NR * values.to(dtype), left.to(dtype).T)
        context.save_for_backward(x, inner_NR, kept, left, values, right)
        return out_NO.reshape(*x.shape[:-1], -1)

    @staticmethod
    def backward(context: Any, gradient: Tensor) -> Any:
        """See the module."""
        x, inner_NR, kept, left, values, right = context.saved_tensors
        dtype = gradient.dtype
        rows_NO = gradient.reshape(-1, gradient.shape[-1])
        rows_NI = x.reshape(-1, x.shape[-1]).to(dtype)
        d_left = (rows_NO.T @ (inner_NR * values.to(dtype))).float()
        inward_NR = rows_NO @ left.to(dtype)
        d_values = (inward_NR.float() * inner_NR.float()).sum(0)
        inward_NR.mul_(values.to(dtype))
        d_right = (inward_NR.T @ rows_NI).float()
        into = None
        if context.needs_input_grad[0]:
            into = (rows_NO @ kept.to(dtype)).addmm_(inward_NR, right.to(dtype)).to(x.dtype).reshape(x.shape)
        return into, None, None, d_left, d_values, d_right


def _precision(x: Tensor) -> torch.dtype:
    device = x.device.type
    return torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else x.dtype


def _between(rows_NO: Tensor, rows_NI: Tensor, left: Tensor | None, right: Tensor | None) -> Tensor:
    """L^T (g^T x) R^T in whichever order takes fewer products."""
    count, outputs, inputs = len(rows_NO), rows_NO.shape[1], rows_NI.shape[1]
    rows = outputs if left is None else left.shape[1]
    columns = inputs if right is None else right.shape[0]
    first = count * ((left is not None) * outputs * rows + (right is not None) * inputs * columns + rows * columns)
    last = count * outputs * inputs + (left is not None) * rows * outputs * inputs
    last += (right is not None) * rows * inputs * columns
    if first <= last:
        left_NA = rows_NO if left is None else rows_NO @ left.to(rows_NO.dtype)
        right_NB = rows_NI if right is None else rows_NI @ right.to(rows_NI.dtype).T
        return left_NA.T @ right_NB
    whole = (rows_NO.T @ rows_NI).float()
    whole = whole if left is None else left.T @ whole
    return whole if right is None else whole @ right.T
