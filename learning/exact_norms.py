"""Norms that keep float64: replacements for those that work in float32 inside.

A detour through float32 rounds, and may round differently after a different batching; then features would agree to
1e-7, not to 1e-15. Each replacement is checked against the original. Does not know of layers or checkpoints.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from learning.errors import CheckpointError


class _RootMeanSquareNorm(nn.Module):
    """x / sqrt(mean(x^2) + eps) * gain, at the precision of x."""

    def __init__(self, gain_H: Tensor, epsilon: float) -> None:
        super().__init__()
        self.gain_H = nn.Parameter(gain_H, requires_grad=False)
        self.epsilon = epsilon

    def forward(self, states: Tensor) -> Tensor:
        scale = torch.rsqrt(states.pow(2).mean(-1, keepdim=True) + self.epsilon)
        return states * scale * self.gain_H


def keep_norms_in_float64(model: PreTrainedModel) -> None:
    """Replaces the root-mean-square norms of a model, in place. Raises `CheckpointError` on one of an unknown kind."""
    norms = {name: module for name, module in model.named_modules() if type(module).__name__.endswith("RMSNorm")}
    generator = torch.Generator().manual_seed(0)
    for name, norm in norms.items():
        weight = getattr(norm, "weight", None)
        epsilon = getattr(norm, "variance_epsilon", getattr(norm, "eps", None))
        if weight is None or epsilon is None:
            raise CheckpointError(f"{type(norm).__name__} at {name}: no weight and epsilon found; use dtype float32")
        probe = torch.randn(4, len(weight), generator=generator, dtype=torch.float64)
        expected = norm(probe).detach()
        for gain_H in (weight.detach(), weight.detach() + 1.0):  # the second is Gemma's way
            replacement = _RootMeanSquareNorm(gain_H, float(epsilon)).requires_grad_(False)
            if torch.allclose(replacement(probe), expected, rtol=1e-5, atol=1e-5 * float(expected.abs().max())):
                model.set_submodule(name, replacement)
                break
        else:
            raise CheckpointError(f"{type(norm).__name__} at {name} is of an unknown kind; use dtype float32")
