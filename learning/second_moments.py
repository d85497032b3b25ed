"""Second moments of what enters linear modules, and of the loss's gradients with respect to what leaves them.

    A = mean of x x^T        G = mean of g g^T        over tokens, g = d(loss of the example) / d(W x)

The curvature of the loss in W is about G (x) A (K-FAC, arXiv 1503.05671; with the labels as they are). Examples go one
by one, so that no padding counts. Does not know what the moments are for.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from learning.completion_loss import CompletionLoss, EncodedExample


@dataclass(frozen=True)
class SecondMoments:
    """Of one module: `inputs` float32[in, in]; `gradients` float32[out, out], or None where they were not asked for."""

    inputs: Tensor
    gradients: Tensor | None


def measured(
    modules: Mapping[str, nn.Linear], loss: CompletionLoss, examples: Sequence[EncodedExample], *, gradients: bool
) -> dict[str, SecondMoments]:
    """Of each module, under the model that `loss` measures and that the modules are parts of."""
    inputs, outgoing = _zeros(modules, 1), _zeros(modules, 0) if gradients else {}
    left: dict[str, Tensor] = {}

    def hook(name: str, arguments: tuple[Tensor, ...], output: Tensor) -> None:
        _add(inputs[name], arguments[0])
        if gradients:
            left[name] = output

    handles = [
        module.register_forward_hook(lambda _, entering, leaving, name=name: hook(name, entering, leaving))
        for name, module in modules.items()
    ]
    for module in modules.values():
        module.weight.requires_grad_(gradients)  # else no graph would be kept
    try:
        for example in examples:
            with torch.set_grad_enabled(gradients):
                total = loss.total([example])
            if gradients:
                found = torch.autograd.grad(total, list(left.values()))
                for name, gradient in zip(left, found, strict=True):
                    _add(outgoing[name], gradient)
                left.clear()
    finally:
        for handle in handles:
            handle.remove()
        for module in modules.values():
            module.weight.requires_grad_(False)
    tokens = max(1, sum(len(example.ids) for example in examples))
    return {
        name: SecondMoments(inputs[name] / tokens, outgoing[name] / tokens if gradients else None) for name in modules
    }


def _zeros(modules: Mapping[str, nn.Linear], side: int) -> dict[str, Tensor]:
    sizes = {name: each.weight.shape[side] for name, each in modules.items()}
    return {name: torch.zeros(size, size, device=modules[name].weight.device) for name, size in sizes.items()}


def _add(moment_DD: Tensor, rows: Tensor) -> None:
    rows_ND = rows.detach().reshape(-1, rows.shape[-1]).float()
    with torch.autocast(rows_ND.device.type, enabled=False):
        moment_DD.addmm_(rows_ND.T, rows_ND)
