"""Domains that a tiny random base can learn, as the benchmark's tasks, and methods for them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from benchmarks.continual.baselines import OPTIONS, baseline
from benchmarks.continual.method import ContinualMethod, Task
from benchmarks.continual.one_model import OneModel
from learning.base_delta import RevisableModel
from learning.template import PromptTemplate
from tests.learning.bases import TEMPLATE, write_base
from tests.learning.colours import OTHERWISE, WORDS, examples

COLOURS = Task("colours", "exact_match", tuple(examples(40)), tuple(examples(8, 80)), tuple(examples(12, 120)))
SHAPES = Task(
    "shapes",
    "exact_match",
    tuple(examples(40, 0, OTHERWISE, "fine ")),
    tuple(examples(8, 80, OTHERWISE, "fine ")),
    tuple(examples(12, 120, OTHERWISE, "fine ")),
)
HUES = Task(
    "hues",
    "exact_match",
    tuple(examples(40, 0, WORDS, "dark ")),
    tuple(examples(8, 80, WORDS, "dark ")),
    tuple(examples(12, 120, WORDS, "dark ")),
)


class TinyStream:
    """A random base of four layers and what makes methods on it."""

    def __init__(self, folder: Path) -> None:
        write_base(folder, "llama")
        self.base = RevisableModel(str(folder), "float32", "cpu")
        self.template = PromptTemplate(str(folder), TEMPLATE, "\n")

    def method(self, kind: str, seed: int = 0, **changes: Any) -> OneModel:
        chosen: dict[str, Any] = {
            "frozen_layers": 2,
            "targets": ("q_proj", "down_proj"),
            "learning_rate": 1e-2,
            "batch_size": 8,
            "max_steps": 3,
            "evaluate_every": 2,
            "max_tokens": 64,
        }
        if kind == "low_rank_sequence":
            chosen |= {"rank": 3, "alpha": 6.0}
        elif changes.get("ewc") or kind == "sparse_seta":
            chosen |= {"fisher_examples": 6}
        method = baseline(self.base, self.template, OPTIONS[kind](**{**chosen, **changes}), seed, kind)
        _checked: ContinualMethod = method
        return method

    def own(self) -> dict[str, torch.Tensor]:
        """The model's tensors at this moment."""
        return {name: part.clone() for name, part in self.base.model.state_dict().items()}


def answers(method: OneModel, task: str) -> dict[str, torch.Tensor]:
    """The weights of the model that answers."""
    with method.answering(task) as model:
        return {name: part.clone() for name, part in model.state_dict().items()}


def same(some: dict[str, torch.Tensor], others: dict[str, torch.Tensor]) -> bool:
    """Bit for bit."""
    return some.keys() == others.keys() and all(torch.equal(some[name], others[name]) for name in some)


def changed(some: dict[str, torch.Tensor], others: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Of each tensor that is not the same, where it is not."""
    return {name: some[name] != others[name] for name in some if not torch.equal(some[name], others[name])}
