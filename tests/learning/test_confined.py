"""Confined modules against dense oracles, and their orthogonality under several optimisers."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import pytest
import torch
from torch import Tensor, nn

from learning.confined import ConfinedModules, CoreLinear, FactorLinear, confined
from learning.free_directions import FreeDirections, beside_rows, by_weight
from learning.osft_options import OsftOptions

SHAPES = {"square": (24, 24), "tall": (40, 16), "wide": (16, 40)}
Optimiser = Callable[[Iterable[Tensor]], torch.optim.Optimizer]
OPTIMISERS: dict[str, Optimiser] = {
    "adamw": lambda each: torch.optim.AdamW(each, lr=1e-2, weight_decay=0.1),
    "momentum": lambda each: torch.optim.SGD(each, lr=1e-2, momentum=0.9, nesterov=True),
    "heavy": lambda each: torch.optim.Adam(each, lr=1e-2, betas=(0.99, 0.9999)),
}


def weight_of(shape: tuple[int, int], seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)) / shape[1] ** 0.5


def rows_of(size: int, seed: int, count: int = 12) -> Tensor:
    return torch.randn(3, count // 3, size, generator=torch.Generator().manual_seed(seed))


class One(nn.Module):
    """A linear layer in a model, with a bias."""

    def __init__(self, weight_OI: Tensor) -> None:
        super().__init__()
        self.part = nn.Linear(weight_OI.shape[1], weight_OI.shape[0]).requires_grad_(False)
        self.part.weight.copy_(weight_OI)


def train(
    weight_OI: Tensor, free: FreeDirections, form: str, optimiser: Optimiser, steps: int
) -> tuple[Tensor, ConfinedModules]:
    """The change of the weight, float64, of a regression on changing targets."""
    model = One(weight_OI)
    begun = weight_OI.clone()
    with confined(model, [("part", model.part.weight.data, free)], form) as modules:
        stepper = optimiser(modules.parameters())
        for step in range(steps):
            x = rows_of(begun.shape[1], step)
            loss = (model.part(x) - rows_of(begun.shape[0], step + 5000)).square().mean() * begun.shape[0]
            stepper.zero_grad()
            loss.backward()
            modules.before_step()
            stepper.step()
            modules.after_step()
        change = modules.change("part", begun)
    assert change is not None
    return change, modules


def overlaps(change: Tensor, weight_OI: Tensor, kept: int) -> tuple[float, float]:
    left, _, right = torch.linalg.svd(weight_OI.double(), full_matrices=False)
    whole = float(change.norm())
    return float((left[:, :kept].T @ change).norm()) / whole, float((change @ right[:kept].T).norm()) / whole


@pytest.mark.parametrize("form", ["core", "factors"])
@pytest.mark.parametrize("optimiser", OPTIMISERS.values(), ids=OPTIMISERS)
@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
def test_a_change_is_orthogonal_to_what_is_kept_under_any_optimiser(
    shape: tuple[int, int], optimiser: Optimiser, form: str
) -> None:
    weight_OI = weight_of(shape)
    change, _ = train(weight_OI, by_weight(weight_OI, 10), form, optimiser, 300)
    assert change.norm() > 0.1
    assert max(overlaps(change.float().double(), weight_OI, 10)) < 5e-7


def test_the_factors_themselves_are_orthogonal() -> None:
    """What they are multiplied to, not what is left of it after rounding is taken out."""
    weight_OI = weight_of((40, 24))
    left, values, right = torch.linalg.svd(weight_OI.double(), full_matrices=False)
    _, modules = train(weight_OI, by_weight(weight_OI, 12), "factors", OPTIMISERS["adamw"], 300)
    u, s, v = (each.detach().double() for each in modules.parameters())
    change = (u * s) @ v - (left[:, 12:] * values[12:]) @ right[12:]
    assert max(overlaps(change, weight_OI, 12)) < 5e-7


def test_without_a_projection_after_the_step_they_are_not() -> None:
    """The published form, gradients projected and no more: the reason for the other half."""
    weight_OI = weight_of((24, 24))
    model = FactorLinear(weight_OI.clone(), None, by_weight(weight_OI, 12))
    stepper = torch.optim.AdamW(model.parameters(), lr=1e-2)
    for step in range(50):
        stepper.zero_grad()
        (model(rows_of(24, step)) - rows_of(24, step + 5000)).square().sum().backward()
        model.before_step()
        stepper.step()
    left, _, _ = torch.linalg.svd(weight_OI.double())
    assert (left[:, :12].T @ model.left.detach().double()).norm() > 0.1


@pytest.mark.parametrize("kept", [0, 5, 16])
def test_a_core_under_sgd_is_dense_projected_gradient_descent(kept: int) -> None:
    weight_OI = weight_of((20, 16))
    free = by_weight(weight_OI, kept)
    assert free.left is not None and free.right is not None
    onto_left, onto_right = (free.left @ free.left.T).float(), (free.right.T @ free.right).float()
    dense, module = weight_OI.clone(), CoreLinear(weight_OI.clone(), None, free)
    for step in range(30):
        x, y = rows_of(16, step).reshape(-1, 16), rows_of(20, step + 5000).reshape(-1, 20)
        gradient = 2 * (x @ dense.T - y).T @ x
        dense = dense - 1e-3 * onto_left @ gradient @ onto_right
        (module(x) - y).square().sum().backward()
        module.before_step()
        with torch.no_grad():
            module.core -= 1e-3 * module.core.grad
        module.core.grad = None
        module.after_step()
        torch.testing.assert_close(module(x), x @ dense.T, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(module.change(weight_OI).float(), dense - weight_OI, atol=1e-4, rtol=1e-4)
    assert (module.change(weight_OI).norm() == 0.0) == (kept == 16)


def test_a_core_is_told_of_a_step_before_it() -> None:
    module = CoreLinear(weight_of((20, 16)), None, by_weight(weight_of((20, 16)), 5))
    with pytest.raises(RuntimeError, match="expected before_step"):
        module.after_step()


def test_gradients_of_factors_are_the_projection_equation() -> None:
    weight_OI = weight_of((20, 16))
    free = by_weight(weight_OI, 6)
    assert free.kept_left is not None and free.kept_right is not None
    module = FactorLinear(weight_OI.clone(), None, free)
    x, y = rows_of(16, 1), rows_of(20, 2)
    u, s, v = (each.detach().clone().requires_grad_() for each in (module.left, module.values, module.right))
    kept_OI = weight_OI - (u * s @ v).detach()
    (x @ (kept_OI + u * s @ v).T - y).square().sum().backward()
    (module(x) - y).square().sum().backward()
    for plain, ours in ((u, module.left), (s, module.values), (v, module.right)):
        torch.testing.assert_close(ours.grad, plain.grad, atol=1e-3, rtol=1e-4)
    module.before_step()
    high_left, high_right = free.kept_left.float(), free.kept_right.float()
    torch.testing.assert_close(module.left.grad, u.grad - high_left @ (high_left.T @ u.grad), atol=1e-3, rtol=1e-4)
    torch.testing.assert_close(module.right.grad, v.grad - (v.grad @ high_right.T) @ high_right, atol=1e-3, rtol=1e-4)
    torch.testing.assert_close(module.values.grad, s.grad, atol=1e-3, rtol=1e-4)


@pytest.mark.parametrize("form", [CoreLinear, FactorLinear])
@pytest.mark.parametrize("kept", [0, 7])
def test_it_begins_as_the_same_function_with_the_same_gradient_of_its_inputs(
    form: type[CoreLinear | FactorLinear], kept: int
) -> None:
    weight_OI, bias_O, x = weight_of((20, 16)), torch.randn(20), rows_of(16, 3).requires_grad_()
    module = form(weight_OI.clone(), bias_O, by_weight(weight_OI, kept))
    out = module(x)
    torch.testing.assert_close(out, nn.functional.linear(x, weight_OI, bias_O), atol=1e-5, rtol=1e-5)
    (gradient,) = torch.autograd.grad(out.sum(), x)
    torch.testing.assert_close(gradient, weight_OI.sum(0).expand_as(x), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("form", ["core", "factors"])
def test_beside_kept_inputs_the_outputs_for_these_stay(form: str) -> None:
    weight_OI = weight_of((20, 16))
    rows_QI = torch.linalg.qr(weight_of((16, 5), 1))[0].T
    change, _ = train(weight_OI, beside_rows(rows_QI), form, OPTIMISERS["adamw"], 100)
    assert (change.float() @ rows_QI.T).norm() / change.norm() < 5e-7
    assert torch.linalg.matrix_rank(change, rtol=1e-4) == 11, "all other inputs are free"


def test_a_factor_keeps_directions_from_moving() -> None:
    weight_OI = weight_of((20, 16))
    left_OO, right_II = (torch.linalg.qr(weight_of((size, size), 2))[0].double() for size in (20, 16))
    factor = torch.ones(20, 16, dtype=torch.float64)
    factor[:10, :8] = 0.0
    change, _ = train(weight_OI, FreeDirections(left_OO, right_II.T, factor=factor), "core", OPTIMISERS["heavy"], 50)
    turned = left_OO.T @ change @ right_II
    assert turned[:10, :8].norm() / change.norm() < 5e-7 and (turned[10:, 8:].abs() > 1e-3).any()


@pytest.mark.parametrize("rows", [2, 400])
def test_both_orders_of_a_gradient_agree(rows: int) -> None:
    """Many rows are multiplied together first, few of them last."""
    weight_OI = weight_of((20, 16))
    free = by_weight(weight_OI, 2)
    assert free.left is not None and free.right is not None
    module = CoreLinear(weight_OI, None, free)
    x, gradient = rows_of(16, 1, rows * 3)[0], rows_of(20, 2, rows * 3)[0]
    module(x).backward(gradient)
    whole = free.left.float().T @ (gradient.T @ x) @ free.right.float().T
    torch.testing.assert_close(module.core.grad, whole, atol=1e-3, rtol=1e-4)


@pytest.mark.parametrize("form", ["core", "factors"])
def test_under_autocast_what_is_trained_stays_float32(form: str) -> None:
    weight_OI = weight_of((20, 16))
    model = One(weight_OI).to(torch.bfloat16)
    x = rows_of(16, 1).to(torch.bfloat16).requires_grad_()
    with confined(model, [("part", weight_OI.clone(), by_weight(weight_OI, 8))], form) as modules:
        with torch.autocast("cpu", dtype=torch.bfloat16):
            out = model.part(x)
        out.float().sum().backward()
        assert out.dtype == x.grad.dtype == torch.bfloat16
        assert all(each.grad is not None and each.grad.dtype == torch.float32 for each in modules.parameters())
    torch.testing.assert_close(out.float(), x.float() @ weight_OI.T + model.part.bias.float(), atol=0.1, rtol=0.05)


def test_modules_that_may_not_change_are_left_in_place() -> None:
    weight_OI = weight_of((20, 16))
    model = One(weight_OI)
    there = model.part
    with confined(model, [("part", model.part.weight.data, by_weight(weight_OI, 16))], "core") as modules:
        assert model.part is there and modules.parameters() == []
    with confined(model, [("part", model.part.weight.data, by_weight(weight_OI, 15))], "core"):
        assert model.part is not there
    assert model.part is there


@pytest.mark.parametrize("form", ["core", "factors"])
@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
@pytest.mark.parametrize("ratio", [0.25, 0.5, 0.75])
def test_what_is_held_beside_is_what_the_options_say(form: str, shape: tuple[int, int], ratio: float) -> None:
    weight, options = weight_of(shape), OsftOptions.model_validate({"form": form, "ratio": ratio})
    free = by_weight(weight, int(ratio * min(shape)))
    module = (CoreLinear if form == "core" else FactorLinear)(weight.clone(), None, free)
    trained = sum(each.numel() for each in module.parameters())
    held = [
        part
        for each in vars(module).values()
        for part in (each, getattr(each, "columns", None))
        if isinstance(part, Tensor)
    ]
    beside = sum(4 * part.numel() for part in held if part.shape != weight.shape)
    outputs, inputs = shape
    assert (trained, beside) == (options.weights_trained(inputs, outputs), options.bytes_beside(inputs, outputs))
    # Whoever goes on with a training elsewhere is given all of it.
    assert {id(part) for part in held} == {id(part) for part in module.tensors().values() if part is not None}
