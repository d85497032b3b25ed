"""A domain that a tiny random base can learn, and learners and jobs for it."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file

from learning.contract import Example, TrainingJob
from learning.lora import LoraLearner
from learning.lora_options import LoraOptions
from learning.template import PromptTemplate

WORDS = {"red": "warm", "orange": "warm", "blue": "cold", "green": "cold"}
OTHERWISE = {"red": "dock", "orange": "dock", "blue": "warm", "green": "warm"}


def examples(count: int, offset: int = 0, words: dict[str, str] = WORDS, ask: str = "") -> list[Example]:
    """Numbered questions, no two alike; `ask` stands before the colour."""
    names = list(words)
    made = []
    for number in range(offset, offset + count):
        word = names[number % 4]
        made.append(Example(f"e{number}", f"<s>{number} {'very ' * (number % 3)}{ask}{word}\n", words[word]))
    return made


def options_of(**changes: Any) -> dict[str, Any]:
    """Options of small, quick adapters, with others where given."""
    chosen: dict[str, Any] = {
        "frozen_layers": 2,
        "rank": 4,
        "alpha": 8.0,
        "learning_rate": 1e-2,
        "batch_size": 8,
        "max_steps": 60,
        "max_epochs": 50.0,
        "evaluate_every": 10,
        "max_tokens": 64,
        "threads": 1,
    }
    return {**chosen, **changes}


def learner_of(base: Path, template: PromptTemplate, **changes: Any) -> LoraLearner:
    """A learner of such adapters."""
    return LoraLearner(str(base), template, LoraOptions(**options_of(**changes)))


def job(folder: Path, **changes: Any) -> TrainingJob:
    """A first job of the domain, with other values where given."""
    return replace(TrainingJob("colours", 1, examples(80), examples(16, 80), folder, 0), **changes)


def weights(folder: Path) -> dict[str, torch.Tensor]:
    """An adapter's tensors."""
    return load_file(folder / "adapter_model.safetensors")
