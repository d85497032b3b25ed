"""Several adapters as one: their weighted changes of the base added up.

    W' = W + sum_i w_i s_i B_i A_i = W + [w_1 s_1 B_1  w_2 s_2 B_2 ...] [A_1; A_2; ...]

Factors side by side are the sum itself, exactly, of the ranks' sum, as PEFT's `combination_type="cat"`. Where that is
more than is wanted, each module gets the matrix of the wanted rank that lies nearest (Eckart and Young, 1936). A module
that one adapter stands in alone has its share only. Knows no engine and no request.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch
from safetensors.torch import save_file

from learning.adapter_shape import AdapterShape, StoredAdapter, fit
from learning.errors import LearningError

_A, _B = ".lora_A.weight", ".lora_B.weight"


def mix(parts: Sequence[tuple[Path, float]], most: int, target: Path) -> None:
    """Write adapters' folders, each with its weight, as one PEFT folder of a rank up to `most` into `target`, which is
    there.

    Raises `LearningError` for one that is not plain LoRA, or of another base than the others, and OSError.
    """
    stored = [(StoredAdapter.read(folder), weight) for folder, weight in parts]
    shapes = [adapter.shape for adapter, _ in stored]
    rank = sum(shape.rank for shape in shapes)
    whole = AdapterShape(
        rank=rank,
        alpha=float(rank),
        rank_stabilised=False,
        targets=frozenset().union(*(shape.targets for shape in shapes)),
        layers=frozenset().union(*(shape.layers for shape in shapes)),
    )
    wanted = replace(whole, rank=min(rank, most), alpha=float(min(rank, most)))
    tensors: dict[str, torch.Tensor] = {}
    for module in sorted({name.removesuffix(_A) for adapter, _ in stored for name in adapter.tensors if _A in name}):
        a_RI, b_OR = _beside(module, stored, rank)
        if wanted.rank < rank:
            a_SI, b_OS = a_RI.new_zeros(wanted.rank, a_RI.shape[1]), b_OR.new_zeros(b_OR.shape[0], wanted.rank)
            fit(a_RI, b_OR, whole, a_SI, b_OS, wanted)
            a_RI, b_OR = a_SI, b_OS
        tensors |= {module + _A: a_RI, module + _B: b_OR}
    save_file(tensors, target / "adapter_model.safetensors")
    config = {"peft_type": "LORA", "base_model_name_or_path": None, **wanted.config(dropout=0.0)}
    (target / "adapter_config.json").write_text(json.dumps(config), encoding="utf-8")


def _beside(module: str, stored: Sequence[tuple[StoredAdapter, float]], rank: int) -> tuple[torch.Tensor, torch.Tensor]:
    """A module's factors of all adapters beside each other, zeros of those that do not stand in it."""
    own = [adapter.tensors for adapter, _ in stored if module + _A in adapter.tensors]
    widths = {(tensors[module + _A].shape[1], tensors[module + _B].shape[0]) for tensors in own}
    if len(widths) > 1:
        raise LearningError(f"mixing adapters: {module} has widths {sorted(widths)}, expected those of one base")
    ((inputs, outputs),) = widths
    a_RI, b_OR, at = torch.zeros(rank, inputs), torch.zeros(outputs, rank), 0
    for adapter, weight in stored:
        end = at + adapter.shape.rank
        if module + _A in adapter.tensors:
            a_RI[at:end] = adapter.tensors[module + _A]
            b_OR[:, at:end] = weight * adapter.shape.scale * adapter.tensors[module + _B]
        at = end
    return a_RI, b_OR
