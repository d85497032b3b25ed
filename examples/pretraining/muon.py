"""Muon for the layers' matrices: momentum whose singular values are all set to about one before the step.

Keller Jordan et al., "Muon: an optimizer for hidden layers" (2024): with momentum m_t = mu m_{t-1} + g_t, the step is
W <- (1 - lr wd) W - lr sqrt(max(1, rows / columns)) orthogonal(g_t + mu m_t), where ``orthogonal`` is a quintic
Newton-Schulz iteration. Matrices of one shape are iterated as one batch in float32, since CPUs are slow on many small
bfloat16 products, which is what torch's own Muon does. This module does not know the model.
"""

from collections import defaultdict
from collections.abc import Iterable

import torch

COEFFICIENTS = (3.4445, -4.7750, 2.0315)


def orthogonalised(stack_NRC: torch.Tensor, iterations: int = 5) -> torch.Tensor:
    """Each matrix of the stack with its singular values moved near one; rows must not outnumber columns."""
    a, b, c = COEFFICIENTS
    x_NRC: torch.Tensor = stack_NRC / (stack_NRC.norm(dim=(1, 2), keepdim=True) + 1e-7)
    for _ in range(iterations):
        gram_NRR = x_NRC @ x_NRC.mT
        mix_NRR = torch.baddbmm(gram_NRR, gram_NRR, gram_NRR, beta=b, alpha=c)
        x_NRC = torch.baddbmm(x_NRC, mix_NRR, x_NRC, beta=a)
    return x_NRC


class Muon(torch.optim.Optimizer):
    """``lr`` is the spectral size of a step, ``weight_decay`` decoupled."""

    def __init__(self, params: Iterable[torch.Tensor], lr: float, momentum: float, weight_decay: float) -> None:
        super().__init__(params, {"lr": lr, "momentum": momentum, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        """One update of all matrices that have a gradient."""
        for group in self.param_groups:
            by_shape: dict[tuple[int, int], list[torch.Tensor]] = defaultdict(list)
            for parameter in group["params"]:
                by_shape[min(parameter.shape), max(parameter.shape)].append(parameter)
            for parameters in by_shape.values():
                self._update(parameters, group["lr"], group["momentum"], group["weight_decay"])

    def _update(self, parameters: list[torch.Tensor], lr: float, momentum: float, weight_decay: float) -> None:
        directions = []
        for parameter in parameters:
            state = self.state[parameter]
            average = state.setdefault("momentum", torch.zeros_like(parameter))
            gradient = parameter.grad if parameter.grad is not None else torch.zeros_like(parameter)
            average.mul_(momentum).add_(gradient)
            directions.append(gradient.add(average, alpha=momentum))
        wide = torch.stack([d if d.shape[0] <= d.shape[1] else d.mT for d in directions])
        for parameter, update in zip(parameters, orthogonalised(wide), strict=True):
            rows, columns = parameter.shape
            step = update if rows <= columns else update.mT
            parameter.mul_(1 - lr * weight_decay).add_(step, alpha=-lr * max(1.0, rows / columns) ** 0.5)
