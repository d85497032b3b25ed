"""What a method is to the benchmark: it learns one task after another, and has a model that answers.

Whether a method is a learner of the service or a baseline, all that is measured is measured here alike: of the model
that answers for a task's name, on that task's rows. Knows no method, no router and no metric.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from torch import nn

from learning.contract import Example


@dataclass(frozen=True)
class Task:
    """One domain's rows. `metric`: a name that `benchmarks.continual.metrics` knows."""

    name: str
    metric: str
    train: tuple[Example, ...]
    held_out: tuple[Example, ...]
    """Taken from the training file: settings are chosen and states kept by these, never by test rows."""
    test: tuple[Example, ...]


@dataclass(frozen=True)
class Learned:
    """One task's training."""

    steps: int
    seconds: float
    train_loss: float
    """Mean over the last tenth of the steps, in nats per completion token."""
    weights_trained: int
    """Numbers that the optimiser changed."""
    failure: str = ""
    """Why it ended before its time, in words; empty where it went well."""


@dataclass(frozen=True)
class Deployment:
    """What an engine needs beside the base to answer for `tasks` as a method's own models do, for all at a time."""

    tasks: tuple[str, ...]
    adapters: Mapping[str, Path]
    """PEFT folders by task; for a task that has none the base answers."""
    base_delta: Path | None = None
    """Folder of `learning.base_delta` with the weights that the base has meanwhile; None leaves it as it is."""


class ContinualMethod(Protocol):
    """One method on one stream; the same seed and tasks give the same outcome on a CPU.

    `label` names it with its settings, in tables and files. What it learned is all in `save`'s folder, so that a stream
    goes on where it was interrupted.
    """

    label: str

    def learn(self, task: Task, on_step: Callable[[int, int], None] = lambda step, steps: None) -> Learned:
        """Learns the next task; `on_step` gets the step and how many there will be."""

    def answering(self, task: str) -> AbstractContextManager[nn.Module]:
        """The model that answers where `task` is asked for by its name, in evaluation mode, while the context lasts.

        Methods with one model give the same for every name; those with an adapter a task, for a name that is not
        learned yet, the bare base.
        """

    @property
    def has_one_model(self) -> bool:
        """Whether the same model answers for every name, so that no router has a say."""

    def stored_bytes(self) -> int:
        """Bytes that have to be kept beside the base to answer, and to go on learning: weights, indices, masks, and
        what is remembered of earlier tasks."""

    def deployments(self, folder: Path) -> Sequence[Deployment]:
        """Of all tasks that it answers for, written below a new folder.

        Several where no one state of the base answers for all of them: such a method can be served one deployment after
        another, and not as a whole.
        """

    def save(self, folder: Path) -> None:
        """Writes all that it has learned into a new folder."""

    def load(self, folder: Path) -> None:
        """Takes up what `save` wrote, in a new object made with the same settings."""
