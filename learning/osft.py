"""OSFT, constrained fine-tuning of the base itself (arXiv 2504.07097): one domain after another, orthogonally to what
is kept for the others (`learning.kept_directions`), in the linear targets above the frozen layers.

    W_t = W_(t-1) + dW        U_h^T dW = 0, dW V_h^T = 0

The base then answers for its domains by itself; adapters of other methods stay, and are judged on it. What is published
is every changed tensor whole. Differences from the paper: a change is orthogonal under AdamW as well, on both sides
(`learning.confined`); from the first domain on, the base's own greatest directions are kept; importance is defined for
weights that are not square. Does not know of routing, publication or where examples come from.
"""

from __future__ import annotations

import math
import shutil
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor
from torch.linalg import LinAlgError  # type: ignore[attr-defined]
from transformers import PreTrainedModel

from learning.adapted import carrying
from learning.adapter_shape import StoredAdapter
from learning.base_delta import RevisableModel, read_base_delta, save_base_delta
from learning.completion_loss import CompletionLoss, EncodedExample, encode
from learning.confined import confined
from learning.contract import Comparison, Evaluation, Incumbent, NewAdapter, Progress, TrainingJob, TrainingResult
from learning.cpu_threads import cpu_threads
from learning.errors import LearningError
from learning.evaluation import evaluate
from learning.free_directions import FreeDirections
from learning.kept_directions import Basis, Kept, basis_of
from learning.material import JobMaterial
from learning.offered import judged
from learning.osft_options import OsftOptions
from learning.output_layer import OutputLayer
from learning.parity import parity_rows
from learning.repeats import spread
from learning.resumption import Resumption, resumption_of
from learning.second_moments import measured
from learning.target_modules import target_modules
from learning.template import PromptTemplate
from learning.token_budget import TokenBudget
from learning.training import Training

_WEIGHT = ".weight"


class OsftLearner:
    """Trains the base, one job at a time, from where the job's change of it stands.

    Raises `LearningError` on options that this base can't meet, `CheckpointError` on an unusable base model.
    """

    name = "osft"

    def __init__(self, model_path: str, template: PromptTemplate, options: OsftOptions) -> None:
        self._model_path = model_path
        self._revisable = RevisableModel(model_path, options.dtype, options.device)
        self._model: PreTrainedModel = self._revisable.model
        self._modules = target_modules(self._model, options)
        self._options = options
        self._template = template
        self._loss = CompletionLoss(OutputLayer(self._model), options.logit_chunk)

    def train(self, job: TrainingJob, on_progress: Callable[[Progress], None] | None = None) -> TrainingResult:
        """Trains, keeps the state with the lowest held-out loss, writes the changed base and sits every exam on it.

        The same job, seed and thread count give the same bits on a CPU, in one process or several. Raises
        `LearningError` when nothing is left to train on or to change, an adapter does not fit, or memory runs out.
        """
        started = time.perf_counter()
        self._revisable.stand_on(job.base_delta)
        self._revisable.remember({name + _WEIGHT: module.weight for name, module in self._modules.items()})
        material = JobMaterial.of(job, self._template, self._options)
        if job.offered is not None:
            return judged(job, job.offered, material, self._model, self._loss, self._options)
        budget = TokenBudget(self._options.batch_size, self._options.micro_batch_tokens)
        with cpu_threads(self._options.threads), torch.random.fork_rng():
            places = self._places(job, material)
            base = self._figures(budget, material.judged)
            before = [self._figures(budget, place.exam, place.adapter, job.seed) for place in places]
            own = [self._figures(budget, material.judged, each.adapter, job.seed) for each in places if each.own]
            basis = basis_of(self._options, Kept.read(job.state) if job.state is not None else None)
            resumption = resumption_of(job, self._options, self._model_path, material)
            training, folder = self._trained(job, material, basis, budget, on_progress, resumption)
            self._revisable.stand_on(folder)
            candidate = self._figures(budget, material.judged)
            after = [self._figures(budget, place.exam, place.adapter, job.seed) for place in places]
            state = None if training.failure else self._state(job, material, basis)
        continued = next((each.incumbent for each in places if each.own and each.adapter is None), None)
        return TrainingResult(
            adapters=(
                NewAdapter(
                    domain=job.domain,
                    folder=None,
                    rank=0,
                    continues=continued.segment if continued else None,
                    candidate=candidate,
                    base=base,
                    incumbent=_best(own),
                ),
                *(
                    place.carried_on(job.output / "beside" / str(number), was, now)
                    for number, (place, was, now) in enumerate(zip(places, before, after, strict=True))
                    if place.incumbent is not continued
                ),
            ),
            steps=len(training.losses),
            epochs=training.examples_seen / len(material.train),
            seconds=training.earlier_seconds + time.perf_counter() - started,
            train_loss=training.train_loss,
            touched=tuple(
                Comparison(place.incumbent.domain, place.incumbent.segment, was, now)
                for place, was, now in zip(places, before, after, strict=True)
                if place.exam
            ),
            base_delta=folder,
            state=state,
            skipped=material.skipped,
            shortened=material.shortened,
            failure=training.failure,
            resumed_from=training.resumed_from,
            trouble=resumption.trouble if resumption else "",
        )

    def _places(self, job: TrainingJob, material: JobMaterial) -> list[_Place]:
        """Every segment in service, the newest of the job's domain first."""
        found = []
        for incumbent in sorted(job.incumbents, key=lambda each: (each.domain != job.domain, -each.segment)):
            own = incumbent.domain == job.domain
            adapter = None if incumbent.adapter is None else StoredAdapter.read(incumbent.adapter)
            exam = material.exams[incumbent.segment] if own else self._encoded(incumbent)
            found.append(_Place(incumbent, adapter, exam, own))
        return found

    def _encoded(self, incumbent: Incumbent) -> list[EncodedExample]:
        return encode(incumbent.exam, self._template, self._options.max_tokens)

    def _figures(
        self,
        budget: TokenBudget,
        examples: Sequence[EncodedExample],
        adapter: StoredAdapter | None = None,
        seed: int = 0,
    ) -> Evaluation:
        """Of the base as it stands, with an adapter where there is one."""
        with nullcontext(self._model) if adapter is None else carrying(self._model, adapter, seed) as model:
            return evaluate(self._loss, budget, model, examples)

    def _trained(
        self,
        job: TrainingJob,
        material: JobMaterial,
        basis: Basis,
        budget: TokenBudget,
        on_progress: Callable[[Progress], None] | None,
        resumption: Resumption | None,
    ) -> tuple[Training, Path]:
        """Trains from where the model stands, and leaves it anywhere; the changed base as a folder."""
        torch.manual_seed(job.seed)  # for a base that drops out
        standing = read_base_delta(job.base_delta) if job.base_delta is not None else {}
        begun = {
            name: standing.get(name + _WEIGHT, self._revisable.own(name + _WEIGHT)).float() for name in self._modules
        }
        with confined(self._model, self._parts(basis, begun), self._options.form) as modules:
            if not (parameters := modules.parameters()):
                raise LearningError(
                    f"training {job.domain} v{job.version}: all directions of the base are kept, so that nothing may "
                    "change; lower ratio, trr or energy"
                )
            rate = self._options.learning_rate
            groups = [{"params": parameters, "lr": rate, "peak": rate}]
            beside = modules.tensors()
            training = Training(self._options, self._model, self._loss, budget, groups, None, modules, beside)
            training.to_the_end(material.train, material.watched, job.seed, on_progress, resumption)
            for name, weight_OI in begun.items():
                change_OI = modules.change(name, weight_OI.to(self._model.device))
                if change_OI is not None:
                    begun[name] = (weight_OI.double() + change_OI.cpu()).float()
        folder = job.output / "base"
        save_base_delta({**standing, **{name + _WEIGHT: each for name, each in begun.items()}}, folder)
        return training, folder

    def _parts(self, basis: Basis, begun: Mapping[str, Tensor]) -> Iterator[tuple[str, Tensor, FreeDirections]]:
        """What each module begins with, and where it may go."""
        for name, module in self._modules.items():
            # A narrow weight would lose small steps.
            weight_OI = module.weight.data
            weight_OI = weight_OI if weight_OI.dtype == torch.float32 else begun[name].to(weight_OI.device, copy=True)
            try:
                yield name, weight_OI, basis.free(name, weight_OI)
            except LinAlgError as error:
                raise LearningError(
                    f"{name}: expected a weight that can be decomposed, got {error}; restore the base"
                ) from error

    def _state(self, job: TrainingJob, material: JobMaterial, basis: Basis) -> Path | None:
        """What the next training has to know of this domain, measured on the base as it is from now on."""
        examples = spread(material.train, self._options.basis_examples if basis.needs_inputs else 0)
        moments = measured(self._modules, self._loss, examples, gradients=basis.needs_gradients) if examples else {}
        kept = basis.after({name: module.weight for name, module in self._modules.items()}, moments)
        if kept is None:
            return None
        kept.save(job.output / "state")
        return job.output / "state"


def _best(figures: Sequence[Evaluation]) -> Evaluation | None:
    return min((each for each in figures if math.isfinite(each.loss)), key=lambda each: each.loss, default=None)


@dataclass(frozen=True)
class _Place:
    """A segment in service, and its exam."""

    incumbent: Incumbent
    adapter: StoredAdapter | None
    exam: list[EncodedExample]
    own: bool

    def carried_on(self, folder: Path, before: Evaluation, after: Evaluation) -> NewAdapter:
        """As it is, on the base as it is from now on; a copy of its adapter goes into `folder`."""
        where = self.incumbent
        if self.adapter is None or where.adapter is None:
            return NewAdapter(where.domain, None, 0, where.segment, after, None, before)
        folder.mkdir(parents=True)
        for name in ("adapter_config.json", "adapter_model.safetensors"):
            shutil.copyfile(where.adapter / name, folder / name)
        parity = parity_rows(self.exam, after)
        return NewAdapter(where.domain, folder, self.adapter.shape.rank, where.segment, after, None, before, parity)
