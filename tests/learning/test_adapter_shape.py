"""Adapters of other shapes: the same function where there is room, the nearest where there is not."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file
from torch import Tensor

from learning.adapter_shape import AdapterShape, StoredAdapter
from learning.errors import LearningError

WIDTHS = {"q_proj": (12, 20), "down_proj": (30, 12)}


def named(layer: int, target: str) -> str:
    return f"base_model.model.model.layers.{layer}.block.{target}"


def tensors(shape: AdapterShape, seed: int, *, zero: bool = False) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    made = {}
    for layer in sorted(shape.layers):
        for target in sorted(shape.targets):
            inputs, outputs = WIDTHS[target]
            module = named(layer, target)
            made[f"{module}.lora_A.weight"] = torch.randn(shape.rank, inputs, generator=generator)
            b = torch.randn(outputs, shape.rank, generator=generator)
            made[f"{module}.lora_B.weight"] = torch.zeros_like(b) if zero else b
    return made


def change(shape: AdapterShape, held: dict[str, Tensor], module: str) -> Tensor:
    a, b = held[f"{module}.lora_A.weight"].double(), held[f"{module}.lora_B.weight"].double()
    return shape.scale * b @ a


def shape(rank: int, alpha: float = 8.0, *, stabilised: bool = False, **others: Any) -> AdapterShape:
    return AdapterShape(
        rank, alpha, stabilised, others.get("targets", frozenset(WIDTHS)), others.get("layers", frozenset({2, 3}))
    )


def folder_of(path: Path, made: AdapterShape, held: dict[str, Tensor], **changes: Any) -> Path:
    path.mkdir(exist_ok=True)
    config = {"peft_type": "LORA", **made.config(0.0), **changes}
    (path / "adapter_config.json").write_text(json.dumps(config))
    save_file(held, path / "adapter_model.safetensors")
    return path


shapes = st.builds(
    lambda rank, alpha, stabilised: shape(rank, alpha, stabilised=stabilised),
    st.integers(1, 9),
    st.floats(0.5, 64.0),
    st.booleans(),
)


@settings(max_examples=60, deadline=None)
@given(old=shapes, new=shapes, seed=st.integers(0, 2**31))
def test_the_start_is_the_same_function_or_the_nearest_of_its_rank(
    old: AdapterShape, new: AdapterShape, seed: int
) -> None:
    held = tensors(old, seed)
    fitted = StoredAdapter(old, held).fitted(tensors(new, seed + 1, zero=True), new)
    for target in WIDTHS:
        before, after = change(old, held, named(2, target)), change(new, fitted, named(2, target))
        spectrum = torch.linalg.svdvals(before)
        left = torch.linalg.norm(before - after)
        # Eckart and Young: what any matrix of this rank must miss is the rest of the spectrum.
        assert float(left) == pytest.approx(float(spectrum[new.rank :].norm()), rel=1e-4, abs=1e-5 * float(spectrum[0]))


def test_new_rows_of_a_grown_adapter_can_learn() -> None:
    old, new = shape(2), shape(4)
    held, fresh = tensors(old, 0), tensors(new, 1, zero=True)
    fitted = StoredAdapter(old, held).fitted(fresh, new)
    module = named(3, "q_proj")
    assert torch.equal(fitted[f"{module}.lora_A.weight"][2:], fresh[f"{module}.lora_A.weight"][2:])
    assert not fitted[f"{module}.lora_B.weight"][:, 2:].any()


def test_the_same_shape_is_the_same_bits() -> None:
    held = tensors(shape(3), 0)
    fitted = StoredAdapter(shape(3), held).fitted(tensors(shape(3), 1, zero=True), shape(3))
    assert all(torch.equal(fitted[name], held[name]) for name in held)


def test_what_a_new_shape_adds_starts_at_nothing_and_nothing_is_left_out() -> None:
    old = shape(2, targets=frozenset({"q_proj"}), layers=frozenset({1, 2}))
    new = shape(2, targets=frozenset({"down_proj"}), layers=frozenset({2, 3})).over(old)
    assert new.targets == {"q_proj", "down_proj"} and new.layers == {1, 2, 3}
    held = tensors(old, 0)
    fitted = StoredAdapter(old, held).fitted(tensors(new, 1, zero=True), new)
    for layer in (1, 2, 3):
        for target in WIDTHS:
            module = named(layer, target)
            kept = f"{module}.lora_A.weight" in held
            expected = change(old, held, module) if kept else 0.0 * change(new, fitted, module)
            torch.testing.assert_close(change(new, fitted, module), expected)


def test_a_folder_is_read_as_it_was_made(tmp_path: Path) -> None:
    made = shape(3, 5.0, stabilised=True)
    held = tensors(made, 0)
    read = StoredAdapter.read(folder_of(tmp_path, made, held))
    assert read.shape == made and read.tensors.keys() == held.keys()
    assert all(torch.equal(read.tensors[name], held[name]) for name in held)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"use_dora": True}, "expected plain LoRA"),
        ({"peft_type": "IA3"}, "expected plain LoRA"),
        ({"bias": "all"}, "expected plain LoRA"),
        ({"rank_pattern": {"q_proj": 7}}, "expected plain LoRA"),
        ({"r": 5}, "says rank 5, its tensors have"),
    ],
    ids=str,
)
def test_what_is_not_plain_lora_is_refused(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(LearningError, match=message):
        StoredAdapter.read(folder_of(tmp_path, shape(3), tensors(shape(3), 0), **changes))


def test_folders_that_hold_no_adapter_are_refused(tmp_path: Path) -> None:
    with pytest.raises(LearningError, match="no readable adapter"):
        StoredAdapter.read(tmp_path)
    folder_of(tmp_path, shape(3), tensors(shape(3), 0))
    (tmp_path / "adapter_model.safetensors").write_bytes(b"torn")
    with pytest.raises(LearningError, match="no readable adapter"):
        StoredAdapter.read(tmp_path)
    odd = {**tensors(shape(3), 0), "base_model.model.lm_head.lora_A.weight": torch.zeros(3, 4)}
    with pytest.raises(LearningError, match="pairs of A and B in decoder layers alone"):
        StoredAdapter.read(folder_of(tmp_path, shape(3), odd))


def test_an_adapter_of_another_base_is_refused() -> None:
    stored = StoredAdapter(shape(3), tensors(shape(3), 0))
    wider = {name: torch.zeros(tensor.shape[0] + 1, tensor.shape[1] + 1) for name, tensor in stored.tensors.items()}
    with pytest.raises(LearningError, match="trained on another base"):
        stored.fitted(wider, shape(4))
    fewer = replace(stored.shape, layers=frozenset({2}))
    with pytest.raises(LearningError, match="trained on another base"):
        stored.fitted(tensors(fewer, 0), fewer)
