"""What a learner is: examples in, something publishable and its figures out.

The values exchanged with every learner (LoRA today) and the protocol it meets. Knows no method, no model and no
storage beyond the folder a job names.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol


@dataclass(frozen=True)
class Example:
    """One labelled example."""

    id: str
    prompt: str
    """Rendered text, as `PromptTemplate.render` gives it."""
    completion: str


@dataclass(frozen=True)
class TrainingJob:
    """One domain's examples and where the result goes."""

    domain: str
    version: int
    train: Sequence[Example]
    held_out: Sequence[Example]
    """Never trained on: they choose the best state and judge it."""
    output: Path
    """Folder to be written; made if absent."""
    initial_adapter: Path | None
    """The version in service, to continue from and to be measured against; None starts from the base."""
    seed: int


@dataclass(frozen=True)
class Evaluation:
    """Teacher-forced figures over held-out examples; zeros where there are none."""

    loss: float
    """Mean cross-entropy in nats per completion token, the end included."""
    exact_match: float
    """Share of examples whose whole completion, the end included, is what greedy decoding gives; 0 to 1."""
    examples: int


@dataclass(frozen=True)
class TrainingResult:
    """What a job left in its folder, and how it compares."""

    folder: Path
    rank: int
    steps: int
    epochs: float
    seconds: float
    train_loss: float
    """Mean over the last tenth of the steps, in nats per completion token."""
    candidate: Evaluation
    base: Evaluation
    incumbent: Evaluation | None
    """The initial adapter's figures; None where there was none."""
    skipped: int = 0
    """Examples left out because their completion alone does not fit into the token limit."""


@dataclass(frozen=True)
class Progress:
    """One optimiser step."""

    step: int
    steps: int
    loss: float
    held_out_loss: float | None
    """Set on the steps after which held-out examples were evaluated."""


class Learner(Protocol):
    """Turns a job into a result; the same job and seed give the same result."""

    @property
    def name(self) -> str:
        """Stable name of the method."""

    def train(self, job: TrainingJob, on_progress: Callable[[Progress], None] | None = None) -> TrainingResult:
        """Runs the job to its end. Raises `LearningError` when it can't be run."""
