"""Low-rank adapters trained on a frozen base (LoRA, arXiv 2106.09685): what all methods that train them share.

    W' = W + s B A     in the chosen linear layers of decoder layers >= frozen_layers, W never changed

A domain starts from the frozen base or from one of its own segments in service; the router's features are the base's
own. Of several segments the one that answers the new held-out examples best goes on; none where the base surely answers
them better and an exam is there to be lost. Does not know of routing, publication or where examples come from.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path

import torch
from peft import PeftModel
from transformers import PreTrainedModel

from learning.adapted import adapted, carrying, save_adapter, set_tensors, tensors_of
from learning.adapter_shape import AdapterShape, StoredAdapter
from learning.base_delta import RevisableModel
from learning.completion_loss import CompletionLoss, EncodedExample, encode
from learning.contract import (
    Comparison,
    Evaluation,
    Example,
    NewAdapter,
    Progress,
    TrainingJob,
    TrainingResult,
)
from learning.cpu_threads import cpu_threads
from learning.evaluation import evaluate
from learning.low_rank_options import LowRankOptions
from learning.material import JobMaterial
from learning.offered import judged
from learning.optimiser import rate_groups
from learning.output_layer import OutputLayer
from learning.paired_bootstrap import lower_bound
from learning.parity import parity_rows
from learning.resumption import resumption_of
from learning.target_modules import target_modules
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
        self._model_path = model_path
        self._revisable = RevisableModel(model_path, options.dtype, options.device)
        self._base: PreTrainedModel = self._revisable.model
        target_modules(self._base, options)
        layers = int(self._base.config.get_text_config().num_hidden_layers)
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

        The same job, seed and thread count give the same adapter on a CPU, in one process or several. Raises
        `LearningError` when no example is left to train on, an adapter does not fit this base, or memory runs out.
        """
        started = time.perf_counter()
        self._revisable.stand_on(job.base_delta)
        material = JobMaterial.of(job, self._template, self._options)
        if job.offered is not None:
            return judged(job, job.offered, material, self._base, self._loss, self._options)
        with cpu_threads(self._options.threads), torch.random.fork_rng():
            budget = TokenBudget(self._options.batch_size, self._options.micro_batch_tokens)
            base = evaluate(self._loss, budget, self._base, material.judged)
            best = self._best(job, material, base, budget)
            start = None if best is None or best.knows_less_than(base) else best
            shape = self._shape.over(start.adapter.shape) if start and start.adapter else self._shape
            with self._adapted(shape, job.seed) as model:
                penalty = self._begin(model, shape, start, job)
                torch.manual_seed(job.seed)  # dropout shall not depend on what was drawn for the start
                rate = self._options.learning_rate * (self._options.continue_rate if start and start.adapter else 1.0)
                trained = [(name, each) for name, each in model.named_parameters() if each.requires_grad]
                groups = rate_groups(trained, rate, self._options.b_rate)
                training = Training(self._options, model, self._loss, budget, groups, penalty)
                begun = (start.segment, start.folder) if start else ()
                resumption = resumption_of(job, self._options, self._model_path, material, begun)
                training.to_the_end(material.train, material.watched, job.seed, on_progress, resumption)
                candidate = evaluate(self._loss, budget, model, material.judged)
                after = evaluate(self._loss, budget, model, start.exam if start else ())
                save_adapter(model, job.output)
                more = None if training.failure else self._finish(model, shape, start, job, material.train)
            beyond = more(budget) if more is not None else Beyond()
        touched = [Comparison(job.domain, start.segment, start.before, after)] if start and after.examples else []
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
                    parity=parity_rows(material.judged, candidate, base),
                ),
                *beyond.adapters,
            ),
            steps=len(training.losses),
            epochs=training.examples_seen / len(material.train),
            seconds=training.earlier_seconds + time.perf_counter() - started,
            train_loss=training.train_loss,
            touched=(*touched, *beyond.touched),
            state=beyond.state,
            skipped=material.skipped,
            shortened=material.shortened,
            failure=training.failure,
            resumed_from=training.resumed_from,
            trouble=resumption.trouble if resumption else "",
        )

    def _begin(self, model: PeftModel, shape: AdapterShape, start: Start | None, job: TrainingJob) -> Penalty | None:
        """Sets the state of `model`, of `shape`, that a training begins with, and returns what is added to its loss."""
        if start is not None and start.adapter is not None:
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

    def _encoded(self, examples: Sequence[Example]) -> list[EncodedExample]:
        return encode(examples, self._template, self._options.max_tokens)

    def _best(self, job: TrainingJob, material: JobMaterial, base: Evaluation, budget: TokenBudget) -> Start | None:
        """The segment of the job's domain that answers its held-out examples best; the newest of equals."""
        found: list[Start] = []
        for incumbent in sorted(job.of_domain(), key=lambda incumbent: -incumbent.segment):
            exam = material.exams[incumbent.segment]
            if incumbent.adapter is None:
                before = evaluate(self._loss, budget, self._base, exam)
                found.append(Start(incumbent.segment, None, None, base, exam, before))
                continue
            adapter = StoredAdapter.read(incumbent.adapter)
            with carrying(self._base, adapter, job.seed) as model:
                held_out = evaluate(self._loss, budget, model, material.judged)
                before = evaluate(self._loss, budget, model, exam)
            found.append(Start(incumbent.segment, incumbent.adapter, adapter, held_out, exam, before))
        finite = [start for start in found if math.isfinite(start.held_out.loss)]
        return min(finite, key=lambda start: start.held_out.loss, default=None)

    def _adapted(self, shape: AdapterShape, seed: int) -> AbstractContextManager[PeftModel]:
        return adapted(self._base, shape, seed, self._options.dropout)


@dataclass(frozen=True)
class Start:
    """A segment that may go on, and its figures as it is in service."""

    segment: int
    folder: Path | None
    adapter: StoredAdapter | None
    """None where the base answers for it: what goes on is a new adapter, which begins as nothing."""
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
