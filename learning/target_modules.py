"""The linear modules of a base model that a training is about. Knows no method."""

from __future__ import annotations

import re

from torch import nn
from transformers import PreTrainedModel

from learning.errors import LearningError
from learning.training_options import TrainingOptions

_LAYER = re.compile(r"\.layers\.(\d+)\.")


def target_modules(model: PreTrainedModel, options: TrainingOptions) -> dict[str, nn.Linear]:
    """By their names in the model, in its order: the `targets` of decoder layers above the frozen ones.

    Raises `LearningError` on options that this base can't meet.
    """
    layers = int(model.config.get_text_config().num_hidden_layers)
    if options.frozen_layers >= layers:
        raise LearningError(
            f"frozen_layers: expected 0 to {layers - 1} for this base model, got {options.frozen_layers}"
        )
    linear = {name: part for name, part in model.named_modules() if isinstance(part, nn.Linear)}
    there = {name.rsplit(".", 1)[-1] for name in linear}
    if unknown := sorted(set(options.targets) - there):  # PEFT passes over a name that matches nothing
        raise LearningError(f"targets: {unknown} are no linear layers of this base model; it has {sorted(there)}")
    found = {}
    for name, part in linear.items():
        layer = _LAYER.search(name)
        if layer and int(layer[1]) >= options.frozen_layers and name.rsplit(".", 1)[-1] in options.targets:
            found[name] = part
    return found
