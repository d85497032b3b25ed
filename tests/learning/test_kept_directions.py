"""What each basis keeps: ranks, importances, inputs and curvature against plain computations."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from learning.completion_loss import CompletionLoss, EncodedExample
from learning.errors import LearningError
from learning.kept_directions import Kept, SingularBasis, basis_of, importance, movable, spanning
from learning.osft_options import OsftOptions
from learning.output_layer import OutputLayer
from learning.second_moments import SecondMoments, measured

OUT, IN = 6, 5


def drawn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def moment(size: int, seed: int, rank: int | None = None) -> Tensor:
    rows_ND = drawn(40, rank or size, seed=seed) @ drawn(rank or size, size, seed=seed + 1)
    return rows_ND.T @ rows_ND / 40


def test_importance_is_the_cosine_of_the_gram_matrices_of_inputs_and_outputs() -> None:
    weight_OI, x_NI = drawn(OUT, IN), drawn(30, IN, seed=1)
    y_NO = x_NI @ weight_OI.T
    gram_x, gram_y = x_NI @ x_NI.T, y_NO @ y_NO.T
    cosine = float((gram_x * gram_y).sum() / (gram_x.norm() * gram_y.norm()))
    assert importance(weight_OI, x_NI.T @ x_NI / 30) == pytest.approx(cosine, rel=1e-5)
    rotation_II = torch.linalg.qr(drawn(IN, IN, seed=2))[0]
    assert importance(rotation_II, x_NI.T @ x_NI) == pytest.approx(1.0), "an isometry loses nothing"
    assert importance(torch.zeros(OUT, IN), x_NI.T @ x_NI) == 0.0


def test_ranks_follow_importance_over_its_mean() -> None:
    known = Kept("weights", {"a": 0.25, "b": 0.75, "c": 0.5})
    basis = SingularBasis(OsftOptions(ratio=None, mrr=0.125, trr=0.625), known)
    assert [basis.kept(name, 100) for name in "abc"] == [int(100 * (0.125 + each * 0.5)) for each in (0.5, 1.5, 1.0)]
    assert basis.kept("new", 100) == 62, "of mean importance"
    assert SingularBasis(OsftOptions(ratio=None, trr=0.9), known).kept("b", 100) == 100, "no more than there are"
    assert SingularBasis(OsftOptions(ratio=None), Kept("weights")).kept("a", 10) == 8
    assert SingularBasis(OsftOptions(ratio=0.25), known).kept("a", 10) == 2


def test_spanning_rows_hold_the_energy_and_one_less_does_not() -> None:
    first_II, second_II = moment(12, 0), moment(12, 5)
    rows_QI = spanning(None, first_II, 0.9)
    more_QI = spanning(rows_QI, second_II, 0.9)
    held = [float((rows @ each @ rows.T).trace() / each.trace()) for rows, each in ((rows_QI, first_II),)]
    values = torch.linalg.eigvalsh(first_II).flip(0)
    fewest = int((values.cumsum(0) < 0.9 * values.sum()).sum()) + 1
    assert held[0] >= 0.9 - 1e-6 and len(rows_QI) == fewest
    torch.testing.assert_close(more_QI @ more_QI.T, torch.eye(len(more_QI)), atol=1e-6, rtol=0.0)
    torch.testing.assert_close(more_QI.T @ (more_QI @ rows_QI.T), rows_QI.T, atol=1e-5, rtol=0.0)
    for rows, enough in ((more_QI, True), (more_QI[:-1], False)):
        assert (float((rows @ second_II @ rows.T).trace() / second_II.trace()) >= 0.9 - 1e-6) == enough
    assert len(spanning(more_QI, second_II, 0.9)) == len(more_QI), "what is held already adds nothing"
    assert len(spanning(None, moment(12, 9, rank=3), 1.0 - 1e-6)) == 3
    assert len(spanning(spanning(None, moment(4, 0), 1.0), moment(4, 3), 1.0)) == 4, "no more than there are"


@pytest.mark.parametrize("curvature", ["soft", "hard"])
def test_how_far_a_change_may_move_pair_by_pair(curvature: str) -> None:
    left_O, right_I = drawn(OUT, seed=1).square(), drawn(IN, seed=2).square()
    options = OsftOptions(basis="kronecker", curvature=curvature, softness=0.3, energy=0.7)
    found = movable(left_O.double(), right_I.double(), options)
    pairs = {(o, i): float(left_O[o]) * float(right_I[i]) for o in range(OUT) for i in range(IN)}
    mean, whole, held = sum(pairs.values()) / len(pairs), sum(pairs.values()), 0.0
    for (o, i), curving in sorted(pairs.items(), key=lambda each: -each[1]):
        expected = 1 / (1 + curving / mean / 0.3) if curvature == "soft" else float(held >= 0.7 * whole)
        held += curving
        assert float(found[o, i]) == pytest.approx(expected, rel=1e-5), (o, i)
    assert (movable(torch.zeros(OUT), right_I, options) == 1.0).all()


def test_the_curvature_basis_is_that_of_the_kronecker_product() -> None:
    """The greatest curvatures of G (x) A as a whole matrix are those that a hard factor keeps from moving."""
    options = OsftOptions(basis="kronecker", curvature="hard", energy=0.8)
    empty = basis_of(options, None)
    assert empty.free("m", drawn(OUT, IN)).left is None, "with no domain before, all is free"
    each = {"m": SecondMoments(moment(IN, 1), moment(OUT, 2))}
    kept = empty.after({}, each)
    assert kept is not None
    free = basis_of(options, kept).free("m", drawn(OUT, IN))
    assert free.left is not None and free.right is not None and free.factor is not None
    whole = torch.kron(each["m"].gradients.double(), each["m"].inputs.double())  # type: ignore[union-attr]
    change = free.left @ (drawn(OUT, IN, seed=4).double() * free.factor) @ free.right
    values, vectors = torch.linalg.eigh(whole)
    values, vectors = values.flip(0), vectors.flip(1)
    count = int((values.cumsum(0) - values < 0.8 * values.sum()).sum())
    assert int((free.factor == 0.0).sum()) == count
    torch.testing.assert_close(
        vectors[:, :count].T @ change.flatten(), torch.zeros(count, dtype=torch.float64), atol=1e-5, rtol=0.0
    )


def test_moments_of_several_domains_add_up_and_modules_of_another_time_stay() -> None:
    options = OsftOptions(basis="kronecker")
    first = basis_of(options, None).after({}, {"a": SecondMoments(moment(IN, 1), moment(OUT, 2))})
    second = basis_of(options, first).after({}, {n: SecondMoments(moment(IN, 3), moment(OUT, 4)) for n in "ab"})
    assert second is not None
    torch.testing.assert_close(second.tensors["a.inputs"], alike(moment(IN, 1)) + alike(moment(IN, 3)))
    torch.testing.assert_close(second.tensors["b.gradients"], alike(moment(OUT, 4)))


def alike(moment_DD: Tensor) -> Tensor:
    return moment_DD * len(moment_DD) / moment_DD.trace()


def test_what_is_learned_well_is_kept_no_less_than_what_is_learned_badly() -> None:
    """A domain whose answers are nearly all right has small gradients, and none of them are given up for that."""
    options = OsftOptions(basis="kronecker")

    def learned(scale: float) -> Kept | None:
        kept = basis_of(options, None).after({}, {"a": SecondMoments(moment(IN, 1), scale * moment(OUT, 2))})
        assert (basis_of(options, kept).free("a", drawn(OUT, IN)).factor is None) == (scale == 0.0)
        return basis_of(options, kept).after({}, {"a": SecondMoments(moment(IN, 3), moment(OUT, 4))})

    well, badly, perfectly = learned(1e-8), learned(1.0), learned(0.0)
    assert well is not None and badly is not None and perfectly is not None
    torch.testing.assert_close(well.tensors, badly.tensors)
    torch.testing.assert_close(perfectly.tensors["a.gradients"], alike(moment(OUT, 4)))


def test_what_is_kept_is_read_as_it_was_saved(tmp_path: Path) -> None:
    kept = Kept("inputs", {"a": 0.25}, {"a": drawn(2, 3)})
    kept.save(tmp_path / "state")
    again = Kept.read(tmp_path / "state")
    assert (again.basis, again.importances) == (kept.basis, kept.importances)
    torch.testing.assert_close(again.tensors["a"], kept.tensors["a"], atol=0.0, rtol=0.0)
    assert basis_of(OsftOptions(basis="kronecker"), again).free("a", drawn(4, 3)).left is None, "of another basis"
    (tmp_path / "state" / "kept.json").write_text("{}")
    with pytest.raises(LearningError, match="expected kept directions"):
        Kept.read(tmp_path / "state")


def test_moments_are_those_of_all_tokens_and_of_the_examples_loss(llama: Path) -> None:
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(llama).requires_grad_(False).eval()
    module = model.get_submodule("model.layers.3.mlp.down_proj")
    assert isinstance(module, nn.Linear)
    loss = CompletionLoss(OutputLayer(model), 64)
    examples = [EncodedExample([5, 6, 7, 8, 9], 3), EncodedExample([9, 8, 7], 1)]
    found = measured({"m": module}, loss, examples, gradients=True)["m"]
    alone = measured({"m": module}, loss, examples, gradients=False)["m"]
    assert found.gradients is not None and alone.gradients is None and not module.weight.requires_grad
    x_NI = torch.zeros(0, module.in_features)
    handle = module.register_forward_pre_hook(lambda _, entering: rows.append(entering[0].detach()[0]))
    for example in examples:
        rows: list[Tensor] = []
        with torch.no_grad():
            loss.total([example])
        x_NI = torch.cat([x_NI, *rows])
    handle.remove()
    torch.testing.assert_close(found.inputs, x_NI.T @ x_NI / 8, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(alone.inputs, found.inputs, atol=1e-6, rtol=1e-5)
    # Of one token's gradient g x^T, g g^T is all that is left where it meets itself.
    example = EncodedExample([3, 4], 1)
    one = measured({"m": module}, loss, [example], gradients=True)["m"]
    module.weight.requires_grad_(True)
    (gradient,) = torch.autograd.grad(loss.total([example]), module.weight)
    module.weight.requires_grad_(False)
    assert one.gradients is not None
    squared = gradient @ gradient.T
    torch.testing.assert_close(one.gradients / one.gradients.trace(), squared / squared.trace(), atol=1e-6, rtol=1e-4)
