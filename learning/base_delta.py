"""A change of the base's weights as a folder, and a model that can be at any of them.

A folder holds every changed tensor whole, under the checkpoint's names, in `weights.safetensors`: nothing has to be
added up, so putting one in twice, or over another, gives the same weights bit for bit. Knows no method.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import AutoModelForCausalLM, PreTrainedModel

from learning.checkpoint import resolve
from learning.errors import LearningError
from learning.lower_layers import DTYPES

WEIGHTS = "weights.safetensors"


def save_base_delta(tensors: Mapping[str, Tensor], folder: Path) -> None:
    """Writes the changed tensors, by their names in the checkpoint, into a new folder."""
    folder.mkdir(parents=True)
    save_file({name: tensor.detach().cpu().contiguous() for name, tensor in sorted(tensors.items())}, folder / WEIGHTS)


def read_base_delta(folder: Path) -> dict[str, Tensor]:
    """The changed tensors by their names in the checkpoint. Raises `LearningError` where the folder holds none."""
    try:
        return load_file(folder / WEIGHTS)
    except (OSError, SafetensorError) as error:
        raise LearningError(
            f"change of the base {folder}: expected {WEIGHTS}, got {error}; restore the folder"
        ) from error


class RevisableModel:
    """A base model that stands on its own weights or on a change of them; `model` requires no gradient.

    Raises `CheckpointError` on an unusable base model.
    """

    def __init__(self, path: str, dtype: str, device: str) -> None:
        self.model: PreTrainedModel = AutoModelForCausalLM.from_pretrained(resolve(path), dtype=DTYPES[dtype])
        self.model.to(torch.device(device)).requires_grad_(False).eval()  # type: ignore[arg-type]
        self._own: dict[str, Tensor] = {}
        """Of every tensor that was ever changed, what the checkpoint has, on the CPU."""

    @torch.no_grad()
    def stand_on(self, delta: Path | None) -> None:
        """Gives the model the weights of a change, or its own for None, whatever it stood on or was trained to since.

        Raises `LearningError` where the change is none of this model; then nothing has changed.
        """
        changed = read_base_delta(delta) if delta is not None else {}
        there = self.model.state_dict()
        if wrong := sorted(n for n, each in changed.items() if n not in there or each.shape != there[n].shape):
            raise LearningError(
                f"change of the base {delta}: expected tensors of this base, got {len(wrong)} others, first "
                f"{wrong[0]!r}; take the home's own base"
            )
        self.remember(changed)
        for name, tensor in {**self._own, **changed}.items():
            there[name].copy_(tensor)

    def own(self, name: str) -> Tensor:
        """What the checkpoint has of a remembered tensor, on the CPU."""
        return self._own[name]

    def remember(self, names: Mapping[str, Tensor]) -> None:
        """Keeps what the checkpoint has of these tensors, which are about to change for the first time."""
        there = self.model.state_dict()
        self._own |= {name: there[name].detach().cpu().clone() for name in names if name not in self._own}
