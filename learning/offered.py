"""An adapter that was made elsewhere, judged as a trained one is: on the held-out examples, and on the exam of the
segment that it would replace.

Of the domain's segments it is held against the one that answers the held-out examples best, as a training goes on from
that. Nothing is trained, so the examples to train on serve the router alone. Knows no method.
"""

from __future__ import annotations

import math
import shutil
import time
from contextlib import nullcontext
from pathlib import Path

import torch
from transformers import PreTrainedModel

from learning.adapted import carrying
from learning.adapter_shape import StoredAdapter
from learning.completion_loss import CompletionLoss, EncodedExample
from learning.contract import ADAPTER_FILES, Comparison, Evaluation, Incumbent, NewAdapter, TrainingJob, TrainingResult
from learning.cpu_threads import cpu_threads
from learning.evaluation import evaluate
from learning.material import JobMaterial
from learning.parity import parity_rows
from learning.token_budget import TokenBudget
from learning.training_options import TrainingOptions


def judged(
    job: TrainingJob,
    offered: Path,
    material: JobMaterial,
    model: PreTrainedModel,
    loss: CompletionLoss,
    options: TrainingOptions,
) -> TrainingResult:
    """The result of a job that offers an adapter, a copy of it in the job's folder; `model` is the base as it stands.

    Raises `LearningError` where it is none, or does not fit this base.
    """
    started = time.perf_counter()
    adapter = StoredAdapter.read(offered)
    budget = TokenBudget(options.batch_size, options.micro_batch_tokens)

    def figures(examples: list[EncodedExample], of: StoredAdapter | None) -> Evaluation:
        with nullcontext(model) if of is None else carrying(model, of, job.seed) as carrier:
            return evaluate(loss, budget, carrier, examples)

    with cpu_threads(options.threads), torch.random.fork_rng():
        base, candidate = figures(material.judged, None), figures(material.judged, adapter)
        best: tuple[Evaluation, Incumbent] | None = None
        for incumbent in sorted(job.of_domain(), key=lambda each: -each.segment):
            its = figures(material.judged, _stored(incumbent))
            if math.isfinite(its.loss) and (best is None or its.loss < best[0].loss):
                best = its, incumbent
        touched: tuple[Comparison, ...] = ()
        if best is not None and (exam := material.exams[best[1].segment]):
            before, after = figures(exam, _stored(best[1])), figures(exam, adapter)
            touched = (Comparison(job.domain, best[1].segment, before, after),)
    job.output.mkdir(parents=True, exist_ok=True)
    for name in ADAPTER_FILES:
        shutil.copyfile(offered / name, job.output / name)
    continued, incumbent_figures = (best[1].segment, best[0]) if best else (None, None)
    parity = parity_rows(material.judged, candidate, base)
    rank = adapter.shape.rank
    new = NewAdapter(job.domain, job.output, rank, continued, candidate, base, incumbent_figures, parity)
    return TrainingResult(
        adapters=(new,),
        steps=0,
        epochs=0.0,
        seconds=time.perf_counter() - started,
        train_loss=0.0,
        touched=touched,
        skipped=material.skipped,
        shortened=material.shortened,
    )


def _stored(incumbent: Incumbent) -> StoredAdapter | None:
    return None if incumbent.adapter is None else StoredAdapter.read(incumbent.adapter)
