"""How much a loss depends on each weight, and the spring that holds weights by it.

    F_p = mean over examples of (d loss / d theta_p)^2      the diagonal of the empirical Fisher information
    penalty = strength * sum_p need_p (theta_p - theta*_p)^2                (EWC, arXiv 1612.00796)

`need` is the sum over domains of each one's F, brought to mean 1, so that a strength means the same on every model;
theta* is where the last training left the weights (Huszar, arXiv 1712.03847), not one for each domain. The paper's
factor 1/2 is in the strength. Knows no method and no model.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from learning.completion_loss import CompletionLoss, EncodedExample
from learning.training import Penalty


def fisher(
    loss: CompletionLoss, parameters: Mapping[str, nn.Parameter], examples: Sequence[EncodedExample]
) -> dict[str, Tensor]:
    """F of each parameter, shaped as it is; of an example the mean loss of its completion in nats a token."""
    found = {name: torch.zeros_like(parameter) for name, parameter in parameters.items()}
    for example in examples:
        value = loss.total([example]) / example.completion_tokens
        gradients = torch.autograd.grad(value, list(parameters.values()))
        for (name, sums), gradient in zip(found.items(), gradients, strict=True):
            found[name] = sums.addcmul_(gradient, gradient, value=1.0 / len(examples))
    return found


def of_mean_one(parts: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The same over their common mean; as they are where that is 0."""
    mean = sum(float(part.double().sum()) for part in parts.values()) / sum(part.numel() for part in parts.values())
    return {name: part / (mean or 1.0) for name, part in parts.items()}


def added(need: Mapping[str, Tensor], more: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Sums by name, on the CPU; `need` may be empty."""
    return {name: part.cpu() + need.get(name, torch.zeros(())) for name, part in more.items()}


def anchored(parameters: Mapping[str, nn.Parameter], need: Mapping[str, Tensor], strength: float) -> Penalty | None:
    """The penalty that holds `parameters` where they are at this moment; None where nothing does."""
    if not strength or not need:
        return None
    held = [
        (parameter, parameter.detach().clone(), need[name].to(parameter.device))
        for name, parameter in parameters.items()
    ]

    def penalty() -> Tensor:
        return strength * torch.stack([(weight * (now - then) ** 2).sum() for now, then, weight in held]).sum()

    return penalty
