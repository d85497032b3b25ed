"""Low-rank adapters trained on a frozen base (LoRA, arXiv 2106.09685): what all methods that train them share.

    W' = W + s B A     in the chosen linear layers of decoder layers >= frozen_layers, W never changed

A domain starts from the frozen base or from one of its own segments in service; the router's features are the base's
own. Of several segments the one that answers the new held-out examples best goes on; none where the base surely answers
them better and an exam is there to be lost. Does not know of routing, publication or where examples come from.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch
from peft import LoraConfig, PeftModel, get_peft_model, get_peft_model_state_dict, set_peft_model_state_dict
from torch import Tensor, nn
from transformers import PreTrainedModel

from learning.adapter_shape import AdapterShape, StoredAdapter
from learning.base_delta import RevisableModel
from learning.completion_loss import CompletionLoss, EncodedExample, encode
from learning.contract import (
    Comparison,
    Evaluation,
    Example,
    Incumbent,
    NewAdapter,
    Progress,
    TrainingJob,
    TrainingResult,
)
from learning.errors import LearningError
from learning.evaluation import evaluate
from learning.low_rank_options import LowRankOptions
from learning.optimiser import rate_groups
from learning.output_layer import OutputLayer
from learning.paired_bootstrap import lower_bound
from learning.repeats import in_force, spread, without_repeats
from learning.template import PromptTemplate
from learning.token_budget import TokenBudget
from learning.training import Penalty, Training

_CONFIDENCE = 0.95
"""Of the base being better than a segment, before a domain's new examples begin from it."""


@dataclass(frozen=True)
class Beyond:
    """What a result gives beside its own adapter; see `learning.contract.TrainingResult`."""

    adapters: tuple[NewAdapter, ...] = ()
    touched: tuple[Comparison, ...] = ()
    state: Path | None = None


class LowRankLearner:
    """Trains PEFT LoRA adapters one job at a time; the base model is loaded once and left as it was.

    A method gives its name, and overrides `_begin` and `_finish` where it does more. Raises `LearningError` on options
    that this base can't meet, `CheckpointError` on an unusable base model.
    """

    name: str

    def __init__(self, model_path: str, template: PromptTemplate, options: LowRankOptions) -> None:
        self._revisable = RevisableModel(model_path, options.dtype, options.device)
        self._base: PreTrainedModel = self._revisable.model
        layers = int(self._base.config.get_text_config().num_hidden_layers)
        if options.frozen_layers >= layers:
            raise LearningError(
                f"frozen_layers: expected 0 to {layers - 1} for this base model, got {options.frozen_layers}"
            )
        linear = {name.rsplit(".", 1)[-1] for name, part in self._base.named_modules() if isinstance(part, nn.Linear)}
        if unknown := sorted(set(options.targets) - linear):  # PEFT passes over a name that matches nothing
            raise LearningError(f"targets: {unknown} are no linear layers of this base model; it has {sorted(linear)}")
        self._options = options
        self._template = template
        self._shape = AdapterShape(
            rank=options.rank,
            alpha=options.alpha,
            rank_stabilised=options.rank_stabilised,
            targets=frozenset(options.targets),
            layers=frozenset(range(options.frozen_layers, layers)),
        )
        self._loss = CompletionLoss(OutputLayer(self._base), options.logit_chunk)

    def train(self, job: TrainingJob, on_progress: Callable[[Progress], None] | None = None) -> TrainingResult:
        """Trains, keeps the state with the lowest held-out loss, writes the PEFT folder and reports.

        The same job, seed and thread count give the same adapter on a CPU. Raises `LearningError` when no example is
        left to train on, an incumbent does not fit this base, or memory runs out with a single example.
        """
        started = time.perf_counter()
        self._revisable.stand_on(job.base_delta)
        material = self._material(job)
        with _threads(self._options.threads), torch.random.fork_rng():
            budget = TokenBudget(self._options.batch_size, self._options.micro_batch_tokens)
            base = evaluate(self._loss, budget, self._base, material.judged)
            best = self._best(job, material, budget)
            start = None if best is None or best.knows_less_than(base) else best
            shape = self._shape.over(start.adapter.shape) if start else self._shape
            with self._adapted(shape, job.seed) as model:
                penalty = self._begin(model, shape, start, job)
                torch.manual_seed(job.seed)  # dropout shall not depend on what was drawn for the start
                rate = self._options.learning_rate * (self._options.continue_rate if start else 1.0)
                trained = [(name, each) for name, each in model.named_parameters() if each.requires_grad]
                groups = rate_groups(trained, rate, self._options.b_rate)
                training = Training(self._options, model, self._loss, budget, groups, penalty)
                training.to_the_end(material.train, material.watched, job.seed, on_progress)
                candidate = evaluate(self._loss, budget, model, material.judged)
                after = evaluate(self._loss, budget, model, start.exam if start else ())
                save_adapter(model, job.output)
                more = None if training.failure else self._finish(model, shape, start, job, material.train)
            beyond = more(budget) if more is not None else Beyond()
        tail = training.losses[-max(1, len(training.losses) // 10) :]
        compared = start is not None and after.examples > 0
        return TrainingResult(
            adapters=(
                NewAdapter(
                    domain=job.domain,
                    folder=job.output,
                    rank=self._options.rank,
                    continues=start.segment if start else None,
                    candidate=candidate,
                    base=base,
                    incumbent=best.held_out if best else None,
                ),
                *beyond.adapters,
            ),
            steps=len(training.losses),
            epochs=training.examples_seen / len(material.train),
            seconds=time.perf_counter() - started,
            train_loss=sum(tail) / len(tail),
            touched=(
                *([Comparison(job.domain, start.segment, start.before, after)] if start and compared else ()),
                *beyond.touched,
            ),
            state=beyond.state,
            skipped=material.skipped,
            failure=training.failure,
        )

    def _begin(self, model: PeftModel, shape: AdapterShape, start: Start | None, job: TrainingJob) -> Penalty | None:
        """Sets the state of `model`, of `shape`, that a training begins with, and returns what is added to its loss."""
        if start is not None:
            set_tensors(model, start.adapter.fitted(tensors_of(model), shape))
        return None

    def _finish(
        self,
        model: PeftModel,
        shape: AdapterShape,
        start: Start | None,
        job: TrainingJob,
        train: Sequence[EncodedExample],
    ) -> Callable[[TokenBudget], Beyond] | None:
        """Looks at `model` as it was trained and saved, and returns what makes the rest of the result, on the bare base
        again; None where there is no rest."""
        return None

    def _material(self, job: TrainingJob) -> _Material:
        """Encodes what is used of a job's examples."""
        news = [*job.train, *job.held_out]
        exams = {incumbent.segment: in_force(incumbent.exam, news) for incumbent in job.of_domain()}
        judges = [*job.held_out, *(example for exam in exams.values() for example in exam)]
        kept, repeated = without_repeats(job.train, judges)
        train, held_out = self._encoded(kept), self._encoded(job.held_out)
        if not train:
            raise LearningError(
                f"training {job.domain} v{job.version}: {repeated} of {len(job.train)} examples ask what a held-out "
                f"one asks, and of the others none has a completion that fits into {self._options.max_tokens} tokens; "
                "raise max_tokens or mend the examples"
            )
        judged = spread(held_out, self._options.judge_examples)
        return _Material(
            train=train,
            judged=judged,
            watched=spread(judged, self._options.evaluate_examples),
            exams={segment: self._encoded(exam) for segment, exam in exams.items()},
            skipped=repeated + len(kept) - len(train) + len(job.held_out) - len(held_out),
        )

    def _encoded(self, examples: Sequence[Example]) -> list[EncodedExample]:
        return encode(examples, self._template, self._options.max_tokens)

    def _best(self, job: TrainingJob, material: _Material, budget: TokenBudget) -> Start | None:
        """The segment of the job's domain that answers its held-out examples best; the newest of equals."""
        found: list[Start] = []
        for incumbent in sorted(job.of_domain(), key=lambda incumbent: -incumbent.segment):
            if incumbent.adapter is not None:
                found.append(self._measured(incumbent, incumbent.adapter, material, job.seed, budget))
        finite = [start for start in found if math.isfinite(start.held_out.loss)]
        return min(finite, key=lambda start: start.held_out.loss, default=None)

    def _measured(
        self, incumbent: Incumbent, folder: Path, material: _Material, seed: int, budget: TokenBudget
    ) -> Start:
        adapter = StoredAdapter.read(folder)
        exam = material.exams[incumbent.segment]
        with self._adapted(adapter.shape, seed) as model:
            set_tensors(model, adapter.fitted(tensors_of(model), adapter.shape))
            return Start(
                segment=incumbent.segment,
                folder=folder,
                adapter=adapter,
                held_out=evaluate(self._loss, budget, model, material.judged),
                exam=exam,
                before=evaluate(self._loss, budget, model, exam),
            )

    @contextmanager
    def _adapted(self, shape: AdapterShape, seed: int) -> Iterator[PeftModel]:
        """The base with a new adapter of `shape`, its A drawn and its B zero; afterwards the bare base again."""
        torch.manual_seed(seed)  # PEFT draws A from the global generator
        model: PeftModel = get_peft_model(self._base, LoraConfig(**shape.config(self._options.dropout)))
        try:
            yield model.eval()
        finally:
            model.unload()
            self._base.requires_grad_(False).train(False)
            if hasattr(self._base, "peft_config"):
                del self._base.peft_config


def tensors_of(model: PeftModel) -> dict[str, Tensor]:
    """The adapter's tensors by PEFT's names, as they are: changed in place, they change it."""
    return dict(get_peft_model_state_dict(model))


def set_tensors(model: PeftModel, tensors: Mapping[str, Tensor]) -> None:
    """Sets the adapter's tensors."""
    set_peft_model_state_dict(model, dict(tensors))


@dataclass(frozen=True)
class _Material:
    """A job's examples, encoded."""

    train: list[EncodedExample]
    judged: list[EncodedExample]
    """Held-out ones that judge the outcome."""
    watched: list[EncodedExample]
    """Those among them that are measured while training."""
    exams: dict[int, list[EncodedExample]]
    """Of each segment of the domain."""
    skipped: int


@dataclass(frozen=True)
class Start:
    """A segment that may go on, and its figures as it is in service."""

    segment: int
    folder: Path
    adapter: StoredAdapter
    held_out: Evaluation
    exam: list[EncodedExample]
    before: Evaluation

    def knows_less_than(self, base: Evaluation) -> bool:
        """Whether going on could only lose: the base answers the new examples better beyond noise, and there are old
        ones in force."""
        if not self.exam or base.examples == 0 or not all(map(math.isfinite, base.row_losses)):
            return False
        worse = [its - theirs for its, theirs in zip(self.held_out.row_losses, base.row_losses, strict=True)]
        return base.loss < self.held_out.loss and lower_bound(worse, _CONFIDENCE) > 0.0


@contextmanager
def _threads(count: int | None) -> Iterator[None]:
    before = torch.get_num_threads()
    if count is not None:
        torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def save_adapter(model: PeftModel, folder: Path) -> None:
    """Writes config and weights alone, with a config whose bytes do not depend on the order of a set."""
    folder.mkdir(parents=True, exist_ok=True)
    model.save_pretrained(str(folder), safe_serialization=True)
    (folder / "README.md").unlink(missing_ok=True)
    path = folder / "adapter_config.json"
    config = json.loads(path.read_text())
    config["target_modules"] = sorted(config["target_modules"])
    path.write_text(json.dumps(config, indent=2, sort_keys=True) + "\n")
