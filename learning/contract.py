"""What a learner is: examples in, something publishable and its figures out.

The values exchanged with every learner and the protocol it meets. A method may give adapters for one domain or several,
a change of the base, and a state of its own for the next time; whatever it changes of what is in service, it shows by
figures. Knows no method, no model and no storage beyond the folders a job names.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from filecmp import cmpfiles
from pathlib import Path
from typing import Protocol

from learning.errors import LearningError

ADAPTER_FILES = ("adapter_config.json", "adapter_model.safetensors")
"""What a PEFT folder of an adapter has."""


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
    adapter: Path | None
    """Its folder; None where the base answers for it, as it is or as `TrainingJob.base_delta` changes it."""
    exam: Sequence[Example] = ()
    """Examples held out of everything it learned; none where no exam is kept."""


class Checkpoints(Protocol):
    """Where one training keeps what another process needs to go on with it; whoever gives it takes it away again.

    Both raise `OSError` where it can't be reached; a training goes on without.
    """

    def save(self, content: bytes) -> None:
        """Keeps this, whole, in the place of what was kept before, or leaves that."""

    def load(self) -> bytes | None:
        """What was kept last; None where there is nothing."""


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
    """What is in service: the segments of the job's domain, and of every other one where the method has one lane."""
    state: Path | None = None
    """The method's own state, as its last published result left it; None where there is none, and after a removal, as
    what it had of the removed domain can't be told from the rest."""
    base_delta: Path | None = None
    """Folder of the change of the base's weights that is in service; None where that is the model as it is."""
    offered: Path | None = None
    """Folder of a PEFT adapter that was made elsewhere: it is to be judged as it is, and nothing is trained."""
    checkpoints: Checkpoints | None = field(default=None, compare=False)
    """Where a process that was ended may have left this training half done; None where nobody keeps any."""

    def of_domain(self) -> tuple[Incumbent, ...]:
        """The segments of the job's own domain."""
        return tuple(each for each in self.incumbents if each.domain == self.domain)


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
class ParityRow:
    """A held-out example as it is read with an adapter: what an engine that serves the adapter must find as well."""

    ids: tuple[int, ...]
    """Tokens of prompt and completion."""
    prompt_tokens: int
    loss: float
    """Mean cross-entropy of the completion in nats per token."""


@dataclass(frozen=True)
class NewAdapter:
    """What a job has made for a segment, and how it compares: one of the job's own domain on the job's held-out
    examples, one of another domain on the exam of the segment that it continues."""

    domain: str
    folder: Path | None
    """None where the base, as the result changes it, answers for the segment by itself; its `rank` is 0 then."""
    rank: int
    continues: int | None
    """The segment whose adapter it began from and would replace; None where it began from the base: a segment of its
    own, where the domain has others."""
    candidate: Evaluation
    base: Evaluation | None
    """None for one of another domain where it was not measured."""
    incumbent: Evaluation | None
    """The figures of the segment that was best before, continued or not; None where the domain has none."""
    parity: tuple[ParityRow, ...] = ()
    """A few of the examples that `candidate` was measured on; none where there are none, or no adapter."""


@dataclass(frozen=True)
class TrainingResult:
    """What a job left in its folder. `steps`, `epochs` and `seconds` are those of the whole training."""

    adapters: tuple[NewAdapter, ...]
    """First that of the job's domain; then one of every other segment that answers otherwise from now on."""
    steps: int
    epochs: float
    seconds: float
    train_loss: float
    """Mean over the last tenth of the steps, in nats per completion token."""
    touched: tuple[Comparison, ...] = ()
    """Every segment whose answers change if this is published and whose exam has examples."""
    base_delta: Path | None = None
    """Folder of a change of the base's weights, which all adapters given here were judged on; then there is one of
    every segment in service. Safetensors and JSON files, in no folders of their own, as in `state`."""
    state: Path | None = None
    """Folder of the method's own state, for the next job; None leaves it as it was."""
    skipped: int = 0
    """Examples left out because their completion alone does not fit into the token limit, or because they repeat one
    that is held out."""
    shortened: int = 0
    """Examples whose prompt lost its middle to the token limit."""
    failure: str = ""
    """Why nothing of this may be published, in words (a training that diverged); empty where it went well."""
    resumed_from: int = 0
    """The step after which another process had left this training; 0 where it was begun and ended by one."""
    trouble: str = ""
    """What went wrong with its checkpoints, in words; the result is none the worse for it."""

    @property
    def folders(self) -> list[Path]:
        """All folders of its own, whatever is in them."""
        every = (*(each.folder for each in self.adapters), self.state, self.base_delta)
        return [each for each in every if each is not None]

    def check(self, job: TrainingJob) -> None:
        """Raises `LearningError` where this can't be a result of the job, or leaves out what has to judge it."""
        what = f"the result of {job.domain} v{job.version}"
        exams = {(each.domain, each.segment): len(each.exam) for each in job.incumbents}
        touched = {(each.domain, each.segment) for each in self.touched}
        places = [(each.domain, each.continues) for each in self.adapters if each.continues is not None]
        if not self.adapters or self.adapters[0].domain != job.domain:
            raise LearningError(
                f"{what}: expected an adapter of {job.domain} first, got {len(self.adapters)} of others"
            )
        if any(each.continues is None for each in self.adapters[1:]):
            raise LearningError(
                f"{what}: expected every further adapter to go on from a segment, got one that does not"
            )
        if len(set(places)) != len(places):
            raise LearningError(f"{what}: expected one adapter of a segment, got several: {sorted(places)}")
        if unknown := sorted({*places, *touched} - exams.keys()):
            raise LearningError(f"{what}: expected segments that the job names, got {_named(unknown)}")
        if self.base_delta is not None and (missing := sorted(exams.keys() - set(places))):
            raise LearningError(f"{what}: it changes the base and gives no adapter on it of {_named(missing)}")
        if wrong := sorted({each.domain for each in self.adapters if (each.folder is None) != (each.rank == 0)}):
            raise LearningError(f"{what}: expected rank 0 where there is no adapter and only there, got {wrong}")
        if self.base_delta is None and any(each.folder is None for each in self.adapters):
            raise LearningError(f"{what}: it neither changes the base nor gives an adapter")
        if job.offered is not None and not _are_same(self.adapters[0].folder, job.offered):
            raise LearningError(f"{what}: expected the adapter that was offered, judged as it is, got another")
        inside = job.output.resolve()
        if elsewhere := [str(each) for each in self.folders if not each.resolve().is_relative_to(inside)]:
            # Whoever takes it in takes it away.
            raise LearningError(f"{what}: expected folders below {job.output}, got {', '.join(elsewhere)}")
        # Of its own domain's exams the job's examples may have answered all otherwise.
        others = {
            place for place in (*places, *(exams if self.base_delta is not None else ())) if place[0] != job.domain
        }
        if unseen := sorted(place for place in others - touched if exams[place]):
            raise LearningError(f"{what}: the exam of {_named(unseen)} was not sat")


def _are_same(folder: Path | None, offered: Path) -> bool:
    _, other, missing = cmpfiles(folder or offered.parent, offered, ADAPTER_FILES, shallow=False)
    return not other and not missing


def _named(places: Sequence[tuple[str, int]]) -> str:
    return ", ".join(f"{domain} segment {segment}" for domain, segment in places)


@dataclass(frozen=True)
class Progress:
    """One optimiser step."""

    step: int
    steps: int
    loss: float
    held_out_loss: float | None
    """Set on the steps after which held-out examples were evaluated."""
    resumed_from: int = 0
    """As in `TrainingResult`."""
    curve: tuple[tuple[int, float], ...] = ()
    """Steps so far with their losses, thinned, where whoever follows the training keeps them."""


class Learner(Protocol):
    """Turns a job into a result; the same job and seed give the same result.

    A method's options say by `one_lane` whether a job has to see what the one before it left. Then one is trained at a
    time, the least recently trained domain first, and is published before the next begins; it may touch every domain
    and keep a state. Else domains are trained in parallel and know nothing of each other.
    """

    @property
    def name(self) -> str:
        """Stable name of the method."""

    def train(self, job: TrainingJob, on_progress: Callable[[Progress], None] | None = None) -> TrainingResult:
        """Runs the job to its end. Raises `LearningError` when it can't be run."""
