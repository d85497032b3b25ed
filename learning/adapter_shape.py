"""Low-rank adapters of one shape made into another: the same function in a larger one, the nearest in a smaller.

    W' = W + s B A     s = alpha / r, or alpha / sqrt(r) with rsLoRA (arXiv 2312.03732)

From rank r to r' >= r: A' = [A; rows as drawn], B' = (s / s') [B 0], so s' B' A' = s B A. To r' < r: the truncated
singular value decomposition of s B A, which no other matrix of rank r' comes nearer to (Eckart and Young, 1936).
Modules that the new shape adds keep B = 0. Targets and layers are only ever added: an adapter that goes on keeps the
modules it stands in, whatever is asked for now, so nothing learned is lost. Knows no model and no training.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from learning.errors import LearningError

_A, _B = ".lora_A.weight", ".lora_B.weight"
_PLACE = re.compile(r"\.layers\.(\d+)\..*?([^.]+)$")
_NOT_PLAIN = (
    "use_dora",
    "rank_pattern",
    "alpha_pattern",
    "modules_to_save",
    "fan_in_fan_out",
    "lora_bias",
)


@dataclass(frozen=True)
class AdapterShape:
    """What an adapter's tensors look like and how its product is scaled."""

    rank: int
    alpha: float
    rank_stabilised: bool
    targets: frozenset[str]
    """Names of the linear modules."""
    layers: frozenset[int]

    @property
    def scale(self) -> float:
        """The factor s on B A."""
        return self.alpha / (math.sqrt(self.rank) if self.rank_stabilised else self.rank)

    def over(self, incumbent: AdapterShape) -> AdapterShape:
        """This shape in the incumbent's modules, too."""
        return replace(self, targets=self.targets | incumbent.targets, layers=self.layers | incumbent.layers)

    def config(self, dropout: float) -> dict[str, Any]:
        """The arguments of PEFT's `LoraConfig`."""
        return {
            "r": self.rank,
            "lora_alpha": self.alpha,
            "use_rslora": self.rank_stabilised,
            "lora_dropout": dropout,
            "target_modules": sorted(self.targets),
            "layers_to_transform": sorted(self.layers),
            "bias": "none",
            "task_type": "CAUSAL_LM",
        }


@dataclass(frozen=True)
class StoredAdapter:
    """An adapter as its folder holds it; tensors by PEFT's names, float32[r, in] and float32[out, r]."""

    shape: AdapterShape
    tensors: dict[str, Tensor]

    @classmethod
    def read(cls, folder: Path) -> StoredAdapter:
        """Raises `LearningError` where the folder holds no adapter, or one that is not plain LoRA."""
        try:
            config = json.loads((folder / "adapter_config.json").read_text(encoding="utf-8"))
            tensors = load_file(folder / "adapter_model.safetensors")
        except (OSError, ValueError, SafetensorError) as error:
            raise LearningError(f"adapter {folder}: no readable adapter ({type(error).__name__}: {error})") from error
        found = {key: config[key] for key in _NOT_PLAIN if config.get(key)}
        if config.get("peft_type") != "LORA" or config.get("bias", "none") != "none" or found:
            raise LearningError(
                f"adapter {folder}: expected plain LoRA without biases, got {config.get('peft_type')} with "
                f"{found or {'bias': config.get('bias')}}; teach this domain anew under another name"
            )
        return cls(_shape(folder, config, tensors), {name: tensor.float() for name, tensor in tensors.items()})

    def fitted(self, fresh: Mapping[str, Tensor], shape: AdapterShape) -> dict[str, Tensor]:
        """The tensors of `shape` that start as this adapter; `fresh` are new ones of that shape, with B = 0.

        Raises `LearningError` where a module is missing in `fresh`, or is of another width there.
        """
        fitted = {name: tensor.clone() for name, tensor in fresh.items()}
        for name, a_RI in self.tensors.items():
            if not name.endswith(_A):
                continue
            module = name.removesuffix(_A)
            b_OR = self.tensors[module + _B]
            if module + _A not in fresh or (a_RI.shape[1], b_OR.shape[0]) != (
                fresh[module + _A].shape[1],
                fresh[module + _B].shape[0],
            ):
                raise LearningError(
                    f"adapter module {module}: the base model has none of {a_RI.shape[1]} inputs and {b_OR.shape[0]} "
                    "outputs; this adapter was trained on another base"
                )
            fit(a_RI, b_OR, self.shape, fitted[module + _A], fitted[module + _B], shape)
        return fitted


def fit(a_RI: Tensor, b_OR: Tensor, old: AdapterShape, a_SI: Tensor, b_OS: Tensor, new: AdapterShape) -> None:
    """Write one module's factors of the shape `old` as those of `new` into `a_SI` and `b_OS`: the same product in a
    larger rank, whose further rows of A stay as they are, and the nearest in a smaller one."""
    if new.rank >= old.rank:
        a_SI[: old.rank] = a_RI
        b_OS.zero_()
        b_OS[:, : old.rank] = b_OR * (old.scale / new.scale)
        return
    # The product of the two triangles has the singular values of B A, and is r x r only.
    left_OR, above_RR = torch.linalg.qr(b_OR.double())
    right_IR, below_RR = torch.linalg.qr(a_RI.double().T)
    u_RR, values_R, v_RR = torch.linalg.svd(old.scale * above_RR @ below_RR.T)
    # A module that is narrower than the rank has no more values than it is wide.
    half_S = (values_R[: new.rank] / new.scale).sqrt()
    count = len(half_S)
    a_SI[:count] = (half_S[:, None] * v_RR[:count]) @ right_IR.T
    b_OS.zero_()
    b_OS[:, :count] = left_OR @ u_RR[:, :count] * half_S


def _shape(folder: Path, config: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> AdapterShape:
    modules = {name.removesuffix(_A) for name in tensors if name.endswith(_A)}
    places = [match for module in modules if (match := _PLACE.search(module))]
    if len(places) != len(modules) or set(tensors) != {module + end for module in modules for end in (_A, _B)}:
        raise LearningError(
            f"adapter {folder}: expected pairs of A and B in decoder layers alone, got {len(tensors)} tensors, first "
            f"{min(tensors, default=None)!r}; teach this domain anew under another name"
        )
    ranks = {tensors[module + _A].shape[0] for module in modules} | {
        tensors[module + _B].shape[1] for module in modules
    }
    if ranks != {config["r"]}:
        raise LearningError(f"adapter {folder}: its config says rank {config['r']}, its tensors have {sorted(ranks)}")
    return AdapterShape(
        rank=int(config["r"]),
        alpha=float(config["lora_alpha"]),
        rank_stabilised=bool(config.get("use_rslora", False)),
        targets=frozenset(match.group(2) for match in places),
        layers=frozenset(int(match.group(1)) for match in places),
    )
