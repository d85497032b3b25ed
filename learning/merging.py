"""A base with an adapter added into its weights: a model by itself, in the base's own layout.

    W' = W + s B A         the sum in float32, or float64 where W is that

One file of the base is in memory at a time. Its configuration, tokenizer and chat template are copied as they are. In
the base's own type the sum is rounded; in float32 the greedy tokens are those of base and adapter.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from learning.adapter_shape import StoredAdapter
from learning.architecture import read_config
from learning.base_delta import read_base_delta
from learning.checkpoint import resolve, weight_files
from learning.errors import LearningError
from learning.lower_layers import DTYPES

_INDEX = "model.safetensors.index.json"
_COPIED = ("*.json", "*.jinja", "*.model", "*.txt", "LICENSE*", "NOTICE*")
_A, _B, _PREFIX = ".lora_A.weight", ".lora_B.weight", "base_model.model."


def merge(model: str, adapter: Path | None, delta: Path | None, dtype: str | None, target: Path) -> None:
    """Write the base `model`, changed by `delta` and with `adapter` in it, into the new folder `target`.

    `dtype` None leaves each tensor's type as it is. Raises `LearningError` where the two do not fit the base.
    """
    base = resolve(model)
    changed = read_base_delta(delta) if delta is not None else {}
    products = _products(StoredAdapter.read(adapter)) if adapter is not None else {}
    left, sizes = {*changed, *products}, 0
    target.mkdir()
    for path in weight_files(base):
        with safe_open(path, framework="pt") as opened:
            names, metadata = list(opened.keys()), opened.metadata()
            tensors = {name: _merged(name, opened.get_tensor(name), changed, products, dtype) for name in names}
        left -= {*names}
        sizes += sum(tensor.nbytes for tensor in tensors.values())
        save_file(tensors, target / path.name, metadata)
    if left:
        raise LearningError(
            f"merging into {model}: expected tensors of this base, got {len(left)} others, first {min(left)!r}; take "
            "the base that the version was trained on"
        )
    _copy(base, target, dtype, sizes)


def _merged(
    name: str,
    weight: Tensor,
    changed: Mapping[str, Tensor],
    products: Mapping[str, tuple[Tensor, Tensor]],
    dtype: str | None,
) -> Tensor:
    kind = DTYPES[dtype] if dtype is not None and weight.is_floating_point() else weight.dtype
    whole = changed.get(name, weight)
    if whole.shape != weight.shape:
        raise LearningError(f"{name}: expected shape {list(weight.shape)}, got {list(whole.shape)}; take its own base")
    if (factors := products.get(name)) is not None:
        b_OR, a_RI = factors
        if (b_OR.shape[0], a_RI.shape[1]) != tuple(weight.shape):
            raise LearningError(f"{name}: the adapter is of other widths than the base; take its own base")
        wide = torch.promote_types(whole.dtype, torch.float32)
        whole = whole.to(wide) + b_OR.to(wide) @ a_RI.to(wide)
    return whole.to(kind).contiguous()


def _products(adapter: StoredAdapter) -> dict[str, tuple[Tensor, Tensor]]:
    """s B and A by the name of the weight that their product is added to."""
    found = {}
    for name, a_RI in adapter.tensors.items():
        if name.endswith(_A):
            module = name.removesuffix(_A)
            b_OR = adapter.tensors[module + _B] * adapter.shape.scale
            found[f"{module.removeprefix(_PREFIX)}.weight"] = b_OR, a_RI
    return found


def _copy(base: Path, target: Path, dtype: str | None, sizes: int) -> None:
    """Everything beside the weights; what says how they are stored says how they are stored now."""
    for path in sorted({each for pattern in _COPIED for each in base.glob(pattern) if each.is_file()}):
        shutil.copyfile(path, target / path.name)
    if dtype is None:
        return
    config = read_config(base)
    for part in (config, config.get("text_config")):
        if isinstance(part, dict):
            part.update({key: dtype for key in ("dtype", "torch_dtype") if key in part})
    config["dtype"] = dtype
    (target / "config.json").write_text(json.dumps(config, indent=2) + "\n")
    if (target / _INDEX).exists():
        index = json.loads((target / _INDEX).read_text())
        index["metadata"] = {**index.get("metadata", {}), "total_size": sizes}
        (target / _INDEX).write_text(json.dumps(index, indent=2) + "\n")
