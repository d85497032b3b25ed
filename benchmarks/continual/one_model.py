"""The frame of methods that go from domain to domain on one base model: encode, train, keep, answer, save.

A method says which parameters are trained, from which values, and what it keeps of them; whatever it keeps is tensors
by name, and the weights that answer for a task follow from these. Between calls the model stands on its own weights, so
that many methods can share it. `threads` of the options is left to who runs them. Knows no method, no router and no
metric.
"""

from __future__ import annotations

import json
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers import PreTrainedModel

from benchmarks.continual.kept_rows import KeptRows
from benchmarks.continual.method import Deployment, Learned, Task
from learning.base_delta import RevisableModel, save_base_delta
from learning.completion_loss import CompletionLoss, EncodedExample
from learning.errors import LearningError
from learning.optimiser import Group
from learning.output_layer import OutputLayer
from learning.repeats import spread
from learning.template import PromptTemplate
from learning.token_budget import TokenBudget
from learning.training import Constraint, Penalty, Training
from learning.training_options import TrainingOptions

TENSORS, FACTS = "learned.safetensors", "learned.json"


@dataclass(frozen=True)
class TrainedPart:
    """What a training changes, of which model."""

    model: nn.Module
    groups: Sequence[Group]
    weights: int
    """Numbers that the optimiser changes."""
    penalty: Penalty | None = None
    constraint: Constraint | None = None


class OneModel(ABC):
    """Learns tasks one after another. `rows`: what it keeps of their rows.

    `base` may be shared, as long as one method at a time is at work. Raises `LearningError` on options that can't be
    met: what stays in the base's weights has to be float32.
    """

    def __init__(
        self,
        base: RevisableModel,
        template: PromptTemplate,
        options: TrainingOptions,
        seed: int,
        label: str,
        share: float = 0.0,
        joint: bool = False,
    ) -> None:
        if options.dtype != "float32" or base.model.dtype != torch.float32:
            raise LearningError(f"{label}: expected dtype float32, got {options.dtype} on {base.model.dtype}")
        self.label = label
        self.tasks: list[str] = []
        """Those learned, in their order."""
        self._base = base
        self._options = options
        self._seed = seed
        self._rows = KeptRows(template, options.max_tokens, options.evaluate_examples, share, joint, seed)
        self._loss = CompletionLoss(OutputLayer(base.model), options.logit_chunk)

    @property
    def has_one_model(self) -> bool:
        return True

    def learn(self, task: Task, on_step: Callable[[int, int], None] = lambda step, steps: None) -> Learned:
        started = time.perf_counter()
        rows = self._rows.beside(task)
        if not rows.train:
            raise LearningError(f"{self.label}: expected rows of {task.name} that fit into max_tokens, got none")
        options = self._of_this_task()
        if options is None:
            self._taken(task)
            return Learned(0, time.perf_counter() - started, 0.0, 0)
        seed = self._task_seed()
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            with self._opened(task.name, rows.train) as part:
                torch.manual_seed(seed)  # dropout shall not depend on what was drawn for the start
                budget = TokenBudget(options.batch_size, options.micro_batch_tokens)
                training = Training(options, part.model, self._loss, budget, part.groups, part.penalty, part.constraint)
                training.to_the_end(rows.train, rows.watched, seed, lambda each: on_step(each.step, each.steps))
                self._keep(task.name, rows.train)
        self._taken(task)
        tail = training.losses[-max(1, len(training.losses) // 10) :]
        seconds = time.perf_counter() - started
        return Learned(len(training.losses), seconds, sum(tail) / len(tail), part.weights, training.failure)

    def answering(self, task: str) -> AbstractContextManager[nn.Module]:
        return self._standing(self._weights(task))

    def stored_bytes(self) -> int:
        return sum(tensor.nbytes for tensor in self._kept().values()) + self._rows.stored_bytes()

    def deployments(self, folder: Path) -> Sequence[Deployment]:
        """A change of the base for all tasks, or one a task where they are answered by different weights."""
        tasks = tuple(dict.fromkeys(self.tasks))
        together = [tasks] if self.has_one_model and tasks else [(task,) for task in tasks]
        return [self._deployed(each, folder / str(place)) for place, each in enumerate(together)]

    def save(self, folder: Path) -> None:
        folder.mkdir(parents=True)
        save_file({name: part.cpu().contiguous() for name, part in sorted(self._kept().items())}, folder / TENSORS)
        (folder / FACTS).write_text(json.dumps({"tasks": self.tasks}) + "\n", encoding="utf-8")
        self._rows.save(folder)

    def load(self, folder: Path) -> None:
        self.tasks = list(json.loads((folder / FACTS).read_text(encoding="utf-8"))["tasks"])
        self._rows.load(folder)
        self._take(load_file(folder / TENSORS))

    @abstractmethod
    def _opened(self, task: str, train: Sequence[EncodedExample]) -> AbstractContextManager[TrainedPart]:
        """The model with what is to be trained, as it begins, while the context lasts."""

    @abstractmethod
    def _keep(self, task: str, train: Sequence[EncodedExample]) -> None:
        """Takes what was trained, while the context of `_opened` lasts."""

    @abstractmethod
    def _weights(self, task: str) -> Mapping[str, Tensor]:
        """The base's weights that are others where `task` is asked for, by their names in the model."""

    @abstractmethod
    def _kept(self) -> dict[str, Tensor]:
        """All that it goes on from, as it is stored."""

    @abstractmethod
    def _take(self, kept: dict[str, Tensor]) -> None:
        """The inverse of `_kept`, after `tasks` are set."""

    def _deployed(self, tasks: tuple[str, ...], folder: Path) -> Deployment:
        """Of tasks that the same weights answer for, written into a new folder."""
        weights = self._weights(tasks[0])
        if not weights:
            return Deployment(tasks, {})
        save_base_delta(weights, folder)
        return Deployment(tasks, {}, folder)

    def _of_this_task(self) -> TrainingOptions | None:
        """The options of the next training; None where there is none."""
        return self._options

    def _task_seed(self) -> int:
        return 1000 * self._seed + len(self.tasks)

    def _taken(self, task: Task) -> None:
        self._rows.keep(task)
        self.tasks.append(task.name)

    def _fisher_rows(self, train: Sequence[EncodedExample], most: int) -> list[EncodedExample]:
        """Evenly spaced ones of those that are the task's own."""
        return spread(train[self._rows.encoded :], most)

    @contextmanager
    def _standing(self, weights: Mapping[str, Tensor]) -> Iterator[PreTrainedModel]:
        """The model on these weights; afterwards on its own, whatever it was trained to."""
        model = self._base.model
        self._base.remember(weights)
        there = dict(model.named_parameters())
        try:
            with torch.no_grad():
                for name, tensor in weights.items():
                    there[name].copy_(tensor)
            yield model
        finally:
            model.requires_grad_(False).train(False)
            self._base.stand_on(None)


def trainable(model: PreTrainedModel, options: TrainingOptions) -> list[str]:
    """Names of the linear targets' weights above the frozen layers. Raises `LearningError` where there are none."""
    found = []
    for name, module in model.named_modules():
        parts = name.split(".")
        targeted = isinstance(module, nn.Linear) and parts[-1] in options.targets and "layers" in parts
        if targeted and int(parts[parts.index("layers") + 1]) >= options.frozen_layers:
            found.append(f"{name}.weight")
    if not found:
        raise LearningError(f"expected {list(options.targets)} in layers from {options.frozen_layers} on, got none")
    return found
