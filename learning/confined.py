"""Linear modules whose weight is trained within free directions, orthogonally to what is kept under any optimiser.

    core:     W = W_0 + L (K o M) R                  M is trained, from zero
    factors:  W = W_kept + U diag(s) V               U, s, V are trained, from the singular values of what is free

core needs no projection: whatever M is, the change lies where it may. W is brought up to date after each step, so that
a pass costs what one of a plain linear layer does, and dM = L^T (g^T x) R^T o K. factors is the paper's (OSFT, arXiv
2504.07097): dU <- dU - U_h U_h^T dU and dV likewise before the step; and, since AdamW turns what it is given, U and V
themselves after it. Does not know how directions were chosen, nor what optimises.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from learning.confined_products import CoreProduct, FactorProduct
from learning.free_directions import FreeDirections


class CoreLinear(nn.Module):
    """A small matrix between fixed directions. `weight` float32[out, in] is changed in place."""

    def __init__(self, weight_OI: Tensor, bias_O: Tensor | None, free: FreeDirections) -> None:
        super().__init__()
        self._bias = None if bias_O is None else bias_O.detach()  # no parameter of this module
        self._weight = weight_OI
        self._left = None if free.left is None else free.left.float().contiguous()
        self._right = None if free.right is None else free.right.float().contiguous()
        self._factor = None if free.factor is None else free.factor.float()
        rows = weight_OI.shape[0] if self._left is None else self._left.shape[1]
        columns = weight_OI.shape[1] if self._right is None else self._right.shape[0]
        self.core = nn.Parameter(torch.zeros(rows, columns, device=weight_OI.device))
        self._before: Tensor | None = None

    def tensors(self) -> dict[str, Tensor | None]:
        """What it goes by beside what is trained: the weight, which each step changes, and the directions."""
        return {"weight": self._weight, "left": self._left, "right": self._right, "factor": self._factor}

    def forward(self, x: Tensor) -> Tensor:
        """float[..., out] of float[..., in]."""
        out: Tensor = CoreProduct.apply(x, self._weight, self._bias, self.core, self._left, self._right, self._factor)  # type: ignore[no-untyped-call]
        return out

    def before_step(self) -> None:
        """Changes nothing, as all of the core is free. What it was is kept until after the step and no longer: a pass,
        when most is held, has no need of it."""
        self._before = self.core.detach().clone()

    @torch.no_grad()
    def after_step(self) -> None:
        """Brings the weight up to date with the core. Raises RuntimeError without `before_step`."""
        if self._before is None:
            raise RuntimeError("expected before_step before the step, got none")
        step, self._before = torch.sub(self.core, self._before, out=self._before), None
        if self._factor is not None:
            step.mul_(self._factor)
        if self._left is not None:
            step = self._left @ step
        if self._right is None:
            self._weight.add_(step)
        else:
            self._weight.addmm_(step, self._right)

    @torch.no_grad()
    def change(self, begun_OI: Tensor) -> Tensor:
        """float64[out, in]: the weight as it is trained less `begun_OI`, which it began with."""
        change = self.core.double() if self._factor is None else self.core.double() * self._factor.double()
        if self._left is not None:
            change = self._left.double() @ change
        return change if self._right is None else change @ self._right.double()


class FactorLinear(nn.Module):
    """Moving directions beside fixed ones. `weight` float32[out, in] gives way to what of it is kept, in place."""

    def __init__(self, weight_OI: Tensor, bias_O: Tensor | None, free: FreeDirections) -> None:
        super().__init__()
        self._bias = None if bias_O is None else bias_O.detach()  # no parameter of this module
        self._kept = weight_OI
        self._left = None if free.kept_left is None else _Projector(free.kept_left, free.left)
        self._right = None if free.kept_right is None else _Projector(free.kept_right.T, _transposed(free.right))
        moving_OI = free.confined(weight_OI)
        left, values, right = torch.linalg.svd(moving_OI, full_matrices=False)
        sides = [each.shape[1] for each in (free.kept_left, _transposed(free.kept_right)) if each is not None]
        rank = min(weight_OI.shape) - max(sides, default=0)
        self.left = nn.Parameter(left[:, :rank].float().contiguous())
        self.values = nn.Parameter(values[:rank].float())
        self.right = nn.Parameter(right[:rank].float().contiguous())
        weight_OI.sub_(moving_OI.float())

    def tensors(self) -> dict[str, Tensor | None]:
        """What it goes by beside what is trained: what is kept of the weight, and the directions."""
        sides = {"left": self._left, "right": self._right}
        return {"kept": self._kept, **{name: each.columns if each else None for name, each in sides.items()}}

    def forward(self, x: Tensor) -> Tensor:
        """float[..., out] of float[..., in]."""
        out: Tensor = FactorProduct.apply(x, self._kept, self._bias, self.left, self.values, self.right)  # type: ignore[no-untyped-call]
        return out

    def before_step(self) -> None:
        """Takes out of the gradients what would touch what is kept."""
        self._project(self.left.grad, self.right.grad)

    @torch.no_grad()
    def after_step(self) -> None:
        """Takes it out of the parameters, which an optimiser may have put there again."""
        self._project(self.left.data, self.right.data)

    @torch.no_grad()
    def change(self, begun_OI: Tensor) -> Tensor:
        """As in `CoreLinear`; what rounding has put where nothing may move is taken out."""
        moving_OI = (self.left.double() * self.values.double()) @ self.right.double()
        change_OI = moving_OI + self._kept.double() - begun_OI.double()
        self._project(change_OI, change_OI)
        return change_OI

    def _project(self, left: Tensor | None, right: Tensor | None) -> None:
        if self._left is not None and left is not None:
            self._left.project_(left)
        if self._right is not None and right is not None:
            self._right.project_(right.T)


class _Projector:
    """Onto the complement of the orthonormal columns `kept` [n, p]: by them, or by those of `free` if these are fewer
    and span all of it."""

    def __init__(self, kept: Tensor, free: Tensor | None) -> None:
        size, count = kept.shape
        self._onto = free is not None and free.shape[1] == size - count < count
        self.columns = (free if free is not None and self._onto else kept).float().contiguous()
        """Those that it goes by."""

    def project_(self, matrix: Tensor) -> None:
        """Changes [n, m] in place."""
        columns = self.columns.to(matrix.dtype)
        coordinates = columns.T @ matrix
        if self._onto:
            matrix.copy_(columns @ coordinates)
        else:
            matrix.addmm_(columns, coordinates, alpha=-1.0)


class ConfinedModules:
    """The modules of a model that are trained, by their names in it; a `learning.training.Constraint`."""

    def __init__(self, modules: Mapping[str, CoreLinear | FactorLinear]) -> None:
        self._modules = dict(modules)

    def parameters(self) -> list[nn.Parameter]:
        """All that is trained."""
        return [each for module in self._modules.values() for each in module.parameters()]

    def tensors(self) -> dict[str, Tensor]:
        """What they go by beside what is trained, by module, in place."""
        found = (
            (f"{name}.{what}", each)
            for name, module in self._modules.items()
            for what, each in module.tensors().items()
        )
        return {name: each for name, each in found if each is not None}

    def before_step(self) -> None:
        """See `learning.training.Constraint`."""
        for module in self._modules.values():
            module.before_step()

    def after_step(self) -> None:
        """See `learning.training.Constraint`."""
        for module in self._modules.values():
            module.after_step()

    def change(self, name: str, begun_OI: Tensor) -> Tensor | None:
        """float64[out, in]: the module's weight as it is trained less what it began with; None where it is none of
        them."""
        return self._modules[name].change(begun_OI) if name in self._modules else None


@contextmanager
def confined(
    model: nn.Module, parts: Iterable[tuple[str, Tensor, FreeDirections]], form: str
) -> Iterator[ConfinedModules]:
    """Puts confined modules in the place of linear ones, which come back afterwards.

    `parts` are taken one by one, as a module needs but some of what its directions hold: its name, the float32[out, in]
    that training begins with and changes in place, and where it may lie. What may not change at all is left as it is.
    """
    made: dict[str, CoreLinear | FactorLinear] = {}
    linear: dict[str, nn.Module] = {}
    kind = CoreLinear if form == "core" else FactorLinear
    try:
        for name, weight_OI, free in parts:
            if not free.nothing:
                linear[name] = model.get_submodule(name)
                made[name] = kind(weight_OI, linear[name].bias, free)  # type: ignore[arg-type]
                model.set_submodule(name, made[name])
        yield ConfinedModules(made)
    finally:
        for name, module in linear.items():
            model.set_submodule(name, module)


def _transposed(matrix: Tensor | None) -> Tensor | None:
    return None if matrix is None else matrix.T
