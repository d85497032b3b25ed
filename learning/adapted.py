"""A base model with a low-rank adapter in it for a while, and such an adapter's folder. Knows no training."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import torch
from peft import LoraConfig, PeftModel, get_peft_model, get_peft_model_state_dict, set_peft_model_state_dict
from torch import Tensor
from transformers import PreTrainedModel

from learning.adapter_shape import AdapterShape, StoredAdapter


@contextmanager
def adapted(base: PreTrainedModel, shape: AdapterShape, seed: int, dropout: float = 0.0) -> Iterator[PeftModel]:
    """The base with a new adapter of `shape`, its A drawn and its B zero; afterwards the bare base again."""
    torch.manual_seed(seed)  # PEFT draws A from the global generator
    model: PeftModel = get_peft_model(base, LoraConfig(**shape.config(dropout)))
    try:
        yield model.eval()
    finally:
        model.unload()
        base.requires_grad_(False).train(False)
        if hasattr(base, "peft_config"):
            del base.peft_config


@contextmanager
def carrying(base: PreTrainedModel, adapter: StoredAdapter, seed: int) -> Iterator[PeftModel]:
    """The base with a stored adapter in it. Raises `LearningError` where it does not fit."""
    with adapted(base, adapter.shape, seed) as model:
        set_tensors(model, adapter.fitted(tensors_of(model), adapter.shape))
        yield model


def tensors_of(model: PeftModel) -> dict[str, Tensor]:
    """The adapter's tensors by PEFT's names, as they are: changed in place, they change it."""
    return dict(get_peft_model_state_dict(model))


def set_tensors(model: PeftModel, tensors: Mapping[str, Tensor]) -> None:
    """Sets the adapter's tensors."""
    set_peft_model_state_dict(model, dict(tensors))


def save_adapter(model: PeftModel, folder: Path) -> None:
    """Writes config and weights alone, with a config whose bytes do not depend on the order of a set."""
    folder.mkdir(parents=True, exist_ok=True)
    model.save_pretrained(str(folder), safe_serialization=True)
    (folder / "README.md").unlink(missing_ok=True)
    path = folder / "adapter_config.json"
    config = json.loads(path.read_text())
    config["target_modules"] = sorted(config["target_modules"])
    path.write_text(json.dumps(config, indent=2, sort_keys=True) + "\n")
