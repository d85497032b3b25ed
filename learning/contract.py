"""What a learner is: examples in, something publishable and its figures out.

The values exchanged with every learner and the protocol it meets. A method may give adapters for one domain or several,
a change of the base, and a state of its own for the next time; whatever it changes of what is in service, it shows by
figures. Knows no method, no model and no storage beyond the folders a job names.
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
class Incumbent:
    """A segment of a domain that is in service: what a result may continue, or touch."""

    domain: str
    segment: int
    """From 1 on; a domain's segments have an adapter and a column of the router each."""
    adapter: Path
    """Its folder."""
    exam: Sequence[Example] = ()
    """Examples held out of everything it learned; none where no exam is kept."""


@dataclass(frozen=True)
class TrainingJob:
    """One domain's examples, what they may touch, and where the result goes."""

    domain: str
    version: int
    train: Sequence[Example]
    held_out: Sequence[Example]
    """Never trained on: they choose the best state and judge it."""
    output: Path
    """Folder to be written; made if absent."""
    seed: int
    incumbents: Sequence[Incumbent] = ()
    """What is in service: the segments of the job's domain, and those of others where the method touches these."""
    state: Path | None = None
    """The method's own state, as its last published result left it."""


@dataclass(frozen=True)
class Evaluation:
    """Teacher-forced figures over examples; zeros where there are none."""

    loss: float
    """Mean cross-entropy in nats per completion token, the end included."""
    exact_match: float
    """Share of examples whose whole completion, the end included, is what greedy decoding gives; 0 to 1."""
    examples: int
    row_losses: tuple[float, ...] = ()
    """Of each example, in order: mean cross-entropy of its completion in nats per token."""
    row_exact: tuple[bool, ...] = ()
    """Of each example, in order: whether greedy decoding gives its completion."""


@dataclass(frozen=True)
class Comparison:
    """A segment's exam before and after a result: the same examples in the same order, so that they can be paired."""

    domain: str
    segment: int
    before: Evaluation
    after: Evaluation


@dataclass(frozen=True)
class NewAdapter:
    """An adapter that a job has made, and how it compares on the job's held-out examples."""

    domain: str
    folder: Path
    rank: int
    continues: int | None
    """The segment whose adapter it began from and would replace; None where it began from the base: a segment of its
    own, where the domain has others."""
    candidate: Evaluation
    base: Evaluation
    incumbent: Evaluation | None
    """The figures of the segment that was best before, continued or not; None where the domain has none."""


@dataclass(frozen=True)
class TrainingResult:
    """What a job left in its folder. `steps`, `epochs` and `seconds` are those of the whole training."""

    adapters: tuple[NewAdapter, ...]
    steps: int
    epochs: float
    seconds: float
    train_loss: float
    """Mean over the last tenth of the steps, in nats per completion token."""
    touched: tuple[Comparison, ...] = ()
    """Every segment whose answers change if this is published and whose exam has examples."""
    base_delta: Path | None = None
    """Folder of a change of the base's weights, which all adapters given here were judged on."""
    state: Path | None = None
    """Folder of the method's own state, for the next job."""
    skipped: int = 0
    """Examples left out because their completion alone does not fit into the token limit, or because they repeat one
    that is held out."""
    failure: str = ""
    """Why nothing of this may be published, in words (a training that diverged); empty where it went well."""


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
