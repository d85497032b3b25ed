"""The shared part of adapters: taken out of one, put into another of another scale, and what is needed of it."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from learning.adapter_shape import AdapterShape, StoredAdapter
from learning.errors import LearningError
from learning.shared_part import SharedPart, mark, own_part, shared_rank_of

MODULE = "base_model.model.model.layers.1.mlp.up_proj"
OTHER = MODULE.replace("up", "down")


def shape(rank: int, alpha: float = 8.0, *, stabilised: bool = False) -> AdapterShape:
    return AdapterShape(rank, alpha, stabilised, frozenset({"up_proj"}), frozenset({1}))


def tensors(rank: int, seed: int = 0, *modules: str) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    made = {}
    for module in modules or (MODULE,):
        made[f"{module}.lora_A.weight"] = torch.randn(rank, 6, generator=generator)
        made[f"{module}.lora_B.weight"] = torch.randn(5, rank, generator=generator)
    return made


def product(found: dict[str, Tensor], of: AdapterShape, rows: slice = slice(None)) -> Tensor:
    return of.scale * found[f"{MODULE}.lora_B.weight"][:, rows] @ found[f"{MODULE}.lora_A.weight"][rows]


@pytest.mark.parametrize("into", [shape(4), shape(7, 3.0), shape(5, 2.0, stabilised=True)])
def test_put_into_another_adapter_it_is_the_same_function(into: AdapterShape) -> None:
    given, taken = tensors(4), tensors(into.rank, 1)
    own = product(taken, into, slice(2, None))
    SharedPart.of(given, shape(4), 2).put_into(taken, into)
    torch.testing.assert_close(product(taken, into, slice(0, 2)), product(given, shape(4), slice(0, 2)))
    torch.testing.assert_close(product(taken, into, slice(2, None)), own)


@pytest.mark.parametrize("of", [shape(5), shape(5, stabilised=True)])
def test_shared_and_own_make_the_whole(of: AdapterShape) -> None:
    whole = tensors(5)
    own = own_part(StoredAdapter(of, whole), 2)
    torch.testing.assert_close(
        product(own.tensors, own.shape) + product(whole, of, slice(0, 2)), product(whole, of), rtol=1e-5, atol=1e-5
    )


def test_the_penalty_is_that_of_its_definition_and_holds_the_shared_rows_alone() -> None:
    before, of = SharedPart.of(tensors(3), shape(3), 2), shape(3)
    fisher = {name: torch.rand_like(part) for name, part in before.tensors.items()}
    needed = before.needing(fisher).needing(fisher)
    mean = sum(float(each.sum()) for each in fisher.values()) / sum(each.numel() for each in fisher.values())
    trained = {name: (part + 0.5).requires_grad_() for name, part in tensors(3).items()}
    found = needed.penalty(trained, of, 3.0)
    expected = sum(3.0 * 2.0 * float((each / mean * 0.25).sum()) for each in fisher.values())
    assert found.item() == pytest.approx(expected, rel=1e-5)
    found.backward()  # type: ignore[no-untyped-call]
    a_RI, b_OR = (trained[f"{MODULE}.lora_{end}.weight"].grad for end in "AB")
    assert a_RI is not None and b_OR is not None
    assert (a_RI[:2] != 0).all() and (a_RI[2:] == 0).all()
    assert (b_OR[:, :2] != 0).all() and (b_OR[:, 2:] == 0).all()


def test_needs_add_over_domains_and_modules_are_never_lost(tmp_path: Path) -> None:
    first = SharedPart.of(tensors(3, 0, MODULE, OTHER), shape(3), 2)
    first = first.needing({name: torch.ones_like(part) for name, part in first.tensors.items()})
    second = SharedPart.of(tensors(3, 1), shape(3), 2)
    second = second.needing({name: torch.full_like(part, 7.0) for name, part in second.tensors.items()}).over(first)
    second.save(tmp_path / "state")
    read = SharedPart.read(tmp_path / "state")
    assert read.rank == 2 and read.tensors.keys() == first.tensors.keys() == read.need.keys()
    for name, part in read.tensors.items():
        from_second = name.startswith(MODULE)
        assert torch.equal(part, (second if from_second else first).tensors[name])
        assert (read.need[name] == (2.0 if from_second else 1.0)).all(), "each domain's has mean 1"


def test_nothing_needed_is_no_division_by_zero() -> None:
    part = SharedPart.of(tensors(3), shape(3), 2)
    still = part.needing({name: torch.zeros_like(each) for name, each in part.tensors.items()})
    assert all((each == 0).all() for each in still.need.values())


@pytest.mark.parametrize("harm", ["no folder", "no facts", "no weights", "no rank"])
def test_a_state_that_is_none_is_refused(tmp_path: Path, harm: str) -> None:
    if harm != "no folder":
        SharedPart.of(tensors(3), shape(3), 2).save(tmp_path / "state")
    if harm == "no facts":
        (tmp_path / "state" / "shared.json").unlink()
    if harm == "no weights":
        (tmp_path / "state" / "shared.safetensors").write_bytes(b"{")
    if harm == "no rank":
        (tmp_path / "state" / "shared.json").write_text("{}")
    with pytest.raises(LearningError, match="expected a shared part"):
        SharedPart.read(tmp_path / "state")


def test_an_adapter_says_how_much_of_it_is_shared(tmp_path: Path) -> None:
    save_file(tensors(3), tmp_path / "adapter_model.safetensors")
    assert shared_rank_of(tmp_path) == 0
    mark(tmp_path, 2)
    assert shared_rank_of(tmp_path) == 2
