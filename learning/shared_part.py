"""The part that low-rank adapters of several domains share, its weights and how much they are needed.

    s B A = s [B_s B_u] [A_s; A_u]      shared rows and columns first, s as in `learning.adapter_shape`

It is kept as A_s and s B_s, so that it fits into adapters of any scale, with the diagonal Fisher information of both:
per weight the mean of squared gradients over examples, normalised to mean 1 over the part, and summed over domains.
Files: `shared.safetensors`, `shared.json`. Knows no training.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from learning.adapter_shape import AdapterShape, StoredAdapter
from learning.errors import LearningError

_WEIGHTS, _FACTS = "shared.safetensors", "shared.json"
_A, _B, _NEED = ".lora_A.weight", ".lora_B.weight", ".need"
_RANK = "shared_rank"


@dataclass(frozen=True)
class SharedPart:
    """Tensors by PEFT's names, on the CPU: A_s float32[rank, in], s B_s float32[out, rank]; `need` is as large."""

    rank: int
    tensors: dict[str, Tensor]
    need: dict[str, Tensor]

    @classmethod
    def of(cls, tensors: Mapping[str, Tensor], shape: AdapterShape, rank: int) -> SharedPart:
        """That of an adapter, of which nothing is needed yet."""
        weights = {name: part.detach().cpu().clone() for name, part in slices(tensors, rank)}
        scaled = {name: part * shape.scale if name.endswith(_B) else part for name, part in weights.items()}
        return cls(rank, scaled, {name: torch.zeros_like(part) for name, part in scaled.items()})

    @classmethod
    def read(cls, folder: Path) -> SharedPart:
        """Raises `LearningError` where the folder holds none."""
        try:
            rank = int(json.loads((folder / _FACTS).read_text(encoding="utf-8"))[_RANK])
            tensors = load_file(folder / _WEIGHTS)
        except (OSError, ValueError, KeyError, TypeError, SafetensorError) as error:
            raise LearningError(f"state {folder}: expected a shared part, got {error}; restore it") from error
        need = {name.removesuffix(_NEED): part for name, part in tensors.items() if name.endswith(_NEED)}
        return cls(rank, {name: part for name, part in tensors.items() if not name.endswith(_NEED)}, need)

    def save(self, folder: Path) -> None:
        """Writes the two files into a new folder."""
        folder.mkdir()
        needed = {f"{name}{_NEED}": part for name, part in self.need.items()}
        save_file({name: part.contiguous() for name, part in {**self.tensors, **needed}.items()}, folder / _WEIGHTS)
        (folder / _FACTS).write_text(json.dumps({_RANK: self.rank}) + "\n", encoding="utf-8")

    @torch.no_grad()
    def put_into(self, tensors: Mapping[str, Tensor], shape: AdapterShape) -> None:
        """Makes it the shared part of an adapter of `shape`, in place; modules that only one of the two has stay."""
        for name, part in slices(tensors, self.rank):
            if name in self.tensors:
                part.copy_(self._scaled(name, shape))

    def penalty(self, tensors: Mapping[str, Tensor], shape: AdapterShape, strength: float) -> Tensor:
        """float32[]: strength * sum_p need_p (theta_p - theta*_p)^2 of an adapter that trains (EWC, 1612.00796)."""
        total = torch.zeros(())
        for name, part in slices(tensors, self.rank):
            if name in self.tensors:
                kept, need = self._scaled(name, shape).to(part.device), self.need[name].to(part.device)
                total = total.to(part.device) + (need * (part - kept) ** 2).sum()
        return strength * total

    def needing(self, fisher: Mapping[str, Tensor]) -> SharedPart:
        """The same part with a domain's need of it added: `fisher` of all its tensors, in any unit."""
        mean = sum(float(part.sum()) for part in fisher.values()) / sum(part.numel() for part in fisher.values())
        unit = {name: part.cpu() / (mean or 1.0) for name, part in fisher.items()}
        return SharedPart(self.rank, self.tensors, {name: self.need[name] + unit[name] for name in self.need})

    def over(self, before: SharedPart) -> SharedPart:
        """This part, with the needs of one before it, and its modules where this one has none."""
        need = {name: part + before.need.get(name, torch.zeros(())) for name, part in self.need.items()}
        return SharedPart(self.rank, {**before.tensors, **self.tensors}, {**before.need, **need})

    def _scaled(self, name: str, shape: AdapterShape) -> Tensor:
        return self.tensors[name] / shape.scale if name.endswith(_B) else self.tensors[name]


def slices(tensors: Mapping[str, Tensor], rank: int) -> Iterator[tuple[str, Tensor]]:
    """The shared rows of each A and the shared columns of each B, as views."""
    for name, tensor in tensors.items():
        yield name, tensor[:rank] if name.endswith(_A) else tensor[:, :rank]


def own_part(adapter: StoredAdapter, shared_rank: int) -> StoredAdapter:
    """What of a stored adapter is the domain's own, as an adapter with the same scale."""
    shape = adapter.shape
    rank = shape.rank - shared_rank
    # Of another rank, the same alpha would be another scale.
    alpha = shape.scale * (rank**0.5 if shape.rank_stabilised else rank)
    tensors = {
        name: tensor[shared_rank:] if name.endswith(_A) else tensor[:, shared_rank:]
        for name, tensor in adapter.tensors.items()
    }
    return StoredAdapter(AdapterShape(rank, alpha, shape.rank_stabilised, shape.targets, shape.layers), tensors)


def shared_rank_of(folder: Path) -> int:
    """How many rows of a stored adapter are shared; 0 where it was trained by another method."""
    with safe_open(folder / "adapter_model.safetensors", framework="pt") as file:
        return int((file.metadata() or {}).get(_RANK, 0))


def mark(folder: Path, rank: int) -> None:
    """Notes in an adapter's file how many of its rows are shared, in the place of any other note: of two, the format
    leaves the order to chance, and the same training must give the same bytes."""
    path = folder / "adapter_model.safetensors"
    save_file(load_file(path), path, metadata={_RANK: str(rank)})
