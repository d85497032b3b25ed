"""SETA-style adapters, reconstructed: one part that all domains share, anchored where they need it, one of each's own.

    y = W x + s (B_s A_s + B_u A_u) x        L = L_completion + anchor * sum_p F_p (theta_p - theta*_p)^2

with p over A_s and B_s. After "Sparse Subspace-to-Expert Sharing for Task-Agnostic Continual Learning" (SETA, arXiv
2606.07500), of which no text beyond abstracts and summaries could be read. Stated there: shared and unique experts, an
adaptive elastic anchor of the shared ones, unique ones that stay, no task id at inference. Inferred here: low-rank
experts instead of sparse ones, so that vLLM serves them as plain LoRA; the anchor's weights F (`learning.shared_part`);
the analytic router as the gate, which is exactly joint, so that no term has to hold it. Not to be cited as the paper's.

In live mode a training republishes every adapter with the shared part that it left; in snapshot mode its own only.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from peft import PeftModel
from torch import Tensor

from learning.adapted import carrying, save_adapter, tensors_of
from learning.adapter_shape import AdapterShape, StoredAdapter
from learning.completion_loss import EncodedExample
from learning.contract import Comparison, Incumbent, NewAdapter, TrainingJob
from learning.errors import LearningError
from learning.evaluation import evaluate
from learning.low_rank import Beyond, LowRankLearner, Start
from learning.parity import parity_rows
from learning.repeats import spread
from learning.seta_options import SetaOptions
from learning.shared_part import SharedPart, mark, own_part, shared_rank_of, slices
from learning.template import PromptTemplate
from learning.token_budget import TokenBudget
from learning.training import Penalty


class SetaLearner(LowRankLearner):
    """Trains one domain after another, each from the shared part that the one before it left."""

    name = "seta"

    def __init__(self, model_path: str, template: PromptTemplate, options: SetaOptions) -> None:
        super().__init__(model_path, template, options)
        self._seta = options

    def _begin(self, model: PeftModel, shape: AdapterShape, start: Start | None, job: TrainingJob) -> Penalty | None:
        before, tensors = self._before(job), tensors_of(model)
        rank = self._shared_rank(before)
        if shape.rank <= rank:
            raise LearningError(f"rank: expected more than the {rank} that domains share so far, got {shape.rank}")
        with torch.no_grad():
            if start is not None and start.adapter is not None and start.folder is not None:
                own = own_part(start.adapter, shared_rank_of(start.folder))
                fresh = own_part(StoredAdapter(shape, tensors), rank)
                for name, part in own.fitted(fresh.tensors, fresh.shape).items():
                    fresh.tensors[name].copy_(part)
            if before is not None:
                before.put_into(tensors, shape)
        if before is None or not self._seta.anchor:
            return None
        trained = _parameters(model)
        return lambda: before.penalty(trained, shape, self._seta.anchor)

    def _finish(
        self,
        model: PeftModel,
        shape: AdapterShape,
        start: Start | None,
        job: TrainingJob,
        train: Sequence[EncodedExample],
    ) -> Callable[[TokenBudget], Beyond]:
        before = self._before(job)
        rank = self._shared_rank(before)
        mark(job.output, rank)
        shared = SharedPart.of(tensors_of(model), shape, rank)
        shared = shared.needing(self._fisher(model, rank, spread(train, self._seta.anchor_examples)))
        shared = shared.over(before) if before is not None else shared
        state = job.output / "state"
        shared.save(state)
        continued = (job.domain, start.segment) if start is not None else None
        others = [each for each in job.incumbents if (each.domain, each.segment) != continued]
        return lambda budget: self._beside(shared, state, job, others, budget)

    def _fisher(self, model: PeftModel, rank: int, examples: Sequence[EncodedExample]) -> dict[str, Tensor]:
        """Per weight of the shared part, the mean over examples of the squared gradient of their mean loss."""
        parameters = _parameters(model)
        found = {name: torch.zeros_like(part) for name, part in slices(parameters, rank)}
        for example in examples:
            loss = self._loss.total([example]) / example.completion_tokens
            gradients = torch.autograd.grad(loss, list(parameters.values()))
            for name, part in slices(dict(zip(parameters, gradients, strict=True)), rank):
                found[name] += part**2 / len(examples)
        return found

    def _beside(
        self, shared: SharedPart, state: Path, job: TrainingJob, others: Sequence[Incumbent], budget: TokenBudget
    ) -> Beyond:
        """In live mode, every other segment with the shared part as it is now, and what its exam says of that."""
        adapters, touched = [], []
        for place, incumbent in enumerate(others if self._seta.mode == "live" else ()):
            if incumbent.adapter is None or shared_rank_of(incumbent.adapter) != shared.rank:
                # Of another method, or from before a state was dropped: it has no part in this one.
                continue
            folder = job.output / "beside" / str(place)
            adapter = StoredAdapter.read(incumbent.adapter)
            exam = self._encoded(incumbent.exam)
            with carrying(self._base, adapter, job.seed) as model:
                before = evaluate(self._loss, budget, model, exam)
                shared.put_into(tensors_of(model), adapter.shape)
                after = evaluate(self._loss, budget, model, exam)
                save_adapter(model, folder)
            mark(folder, shared.rank)
            figures = (after, None, before, parity_rows(exam, after))
            adapters.append(NewAdapter(incumbent.domain, folder, adapter.shape.rank, incumbent.segment, *figures))
            if exam:
                touched.append(Comparison(incumbent.domain, incumbent.segment, before, after))
        return Beyond(tuple(adapters), tuple(touched), state)

    def _shared_rank(self, before: SharedPart | None) -> int:
        """As the state has it, where there is one: the parts of adapters in service can't be told apart otherwise."""
        return before.rank if before is not None else self._seta.shared_rank

    @staticmethod
    def _before(job: TrainingJob) -> SharedPart | None:
        return SharedPart.read(job.state) if job.state is not None else None


def _parameters(model: PeftModel) -> dict[str, Tensor]:
    """What is trained, by the names that PEFT stores it under."""
    named = {name.replace(".default", ""): each for name, each in model.named_parameters() if each.requires_grad}
    return {name: named[name] for name in sorted(named)}
