"""One domain's low-rank subspace, trained on a frozen base (LoRA, arXiv 2106.09685, as used by Any-SSR, 2503.13575).

    W' = W + (alpha / rank) B A     in the chosen linear layers of decoder layers >= frozen_layers, W never changed

The layers below `frozen_layers` stay free of adapters, so the router's features are the same under every adapter; and
every domain starts from the frozen base or its own version in service, so domains can't disturb each other. Does not
know of routing, publication or where examples come from.
"""

from __future__ import annotations

import json
import re
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from torch import Tensor, nn
from transformers import AutoModelForCausalLM, PreTrainedModel

from learning.checkpoint import resolve
from learning.completion_loss import EncodedExample, completion_logits, encode, evaluate, mean_loss
from learning.contract import Evaluation, Progress, TrainingJob, TrainingResult
from learning.errors import LearningError
from learning.lora_options import LoraOptions
from learning.lower_layers import DTYPES
from learning.optimiser import batches, rate_factor
from learning.template import PromptTemplate

_CLIP_NORM = 1.0


class LoraLearner:
    """Trains PEFT LoRA adapters one job at a time; the base model is loaded once and left as it was.

    Raises `LearningError` on options that this base can't meet, `CheckpointError` on an unusable base model.
    """

    name = "lora"

    def __init__(self, model_path: str, template: PromptTemplate, options: LoraOptions) -> None:
        self._base: PreTrainedModel = AutoModelForCausalLM.from_pretrained(
            resolve(model_path), dtype=DTYPES[options.dtype]
        )
        self._base.to(torch.device(options.device)).requires_grad_(False).eval()  # type: ignore[arg-type]
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
        self._config: dict[str, Any] = {
            "r": options.rank,
            "lora_alpha": options.alpha,
            "lora_dropout": options.dropout,
            "target_modules": sorted(options.targets),
            "layers_to_transform": list(range(options.frozen_layers, layers)),
            "bias": "none",
            "task_type": "CAUSAL_LM",
        }

    def train(self, job: TrainingJob, on_progress: Callable[[Progress], None] | None = None) -> TrainingResult:
        """Trains, keeps the state with the lowest held-out loss, writes the PEFT folder and reports.

        The same job, seed and thread count give the same adapter on a CPU. Raises `LearningError` when no example fits
        or the initial adapter does not belong to this learner.
        """
        started = time.perf_counter()
        train = encode(job.train, self._template, self._options.max_tokens)
        held_out = encode(job.held_out, self._template, self._options.max_tokens)
        if not train:
            raise LearningError(
                f"training {job.domain} v{job.version}: none of {len(job.train)} examples has a completion that fits "
                f"into {self._options.max_tokens} tokens; raise max_tokens or mend the examples"
            )
        with _threads(self._options.threads), torch.random.fork_rng(), self._adapted(job) as model:
            torch.manual_seed(job.seed)
            incumbent = None if job.initial_adapter is None else evaluate(model, held_out, self._options.batch_size)
            with model.disable_adapter():
                base = evaluate(model, held_out, self._options.batch_size)
            run = _Run(self._options, model, train, held_out, job.seed)
            candidate = run.to_the_end(on_progress)
            _save(model, job.output)
        skipped = len(job.train) + len(job.held_out) - len(train) - len(held_out)
        tail = run.losses[-max(1, len(run.losses) // 10) :]
        return TrainingResult(
            folder=job.output,
            rank=self._options.rank,
            steps=len(run.losses),
            epochs=run.examples_seen / len(train),
            seconds=time.perf_counter() - started,
            train_loss=sum(tail) / len(tail),
            candidate=candidate,
            base=base,
            incumbent=incumbent,
            skipped=skipped,
        )

    @contextmanager
    def _adapted(self, job: TrainingJob) -> Iterator[PeftModel]:
        """The base with an adapter to train; afterwards the bare base again."""
        torch.manual_seed(job.seed)  # PEFT draws A from the global generator
        if job.initial_adapter is None:
            model: PeftModel = get_peft_model(self._base, LoraConfig(**self._config))
        else:
            self._check_initial(job.initial_adapter)
            model = PeftModel.from_pretrained(self._base, str(job.initial_adapter), is_trainable=True)
        try:
            self._check_layers(model)
            yield model
        finally:
            model.unload()
            self._base.requires_grad_(False).train(False)
            if hasattr(self._base, "peft_config"):
                del self._base.peft_config

    def _check_initial(self, folder: Path) -> None:
        try:
            found = json.loads((folder / "adapter_config.json").read_text())
        except (OSError, ValueError) as error:
            raise LearningError(f"initial adapter {folder}: no readable adapter_config.json ({error})") from error
        mine = (self._config["r"], self._config["target_modules"], self._config["layers_to_transform"])
        got = (found.get("r"), sorted(found.get("target_modules") or []), found.get("layers_to_transform"))
        if got != mine:
            raise LearningError(
                f"initial adapter {folder}: expected rank, targets and layers {mine}, got {got}; train this domain "
                "anew from the base"
            )

    def _check_layers(self, model: PeftModel) -> None:
        names = [name for name, parameter in model.named_parameters() if parameter.requires_grad]
        numbers = {int(match.group(1)) for name in names if (match := re.search(r"\.layers\.(\d+)\.", name))}
        if not numbers or min(numbers) < self._options.frozen_layers:
            raise LearningError(
                f"adapter in layers {sorted(numbers)}: expected layers from {self._options.frozen_layers} on with "
                f"{self._config['target_modules']}; look at targets and frozen_layers"
            )


class _Run:
    """The optimisation of one job."""

    def __init__(
        self,
        options: LoraOptions,
        model: PeftModel,
        train: Sequence[EncodedExample],
        held_out: Sequence[EncodedExample],
        seed: int,
    ) -> None:
        self._options = options
        self._model = model
        self._train = train
        self._held_out = held_out
        self._parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
        self._optimiser = torch.optim.AdamW(
            self._parameters, lr=options.learning_rate, weight_decay=options.weight_decay, fused=True
        )
        self._seed = seed
        self.losses: list[float] = []
        self.examples_seen = 0

    def to_the_end(self, on_progress: Callable[[Progress], None] | None) -> Evaluation:
        """Steps until a limit or patience is reached; the model then holds the best state seen."""
        options = self._options
        per_epoch = -(-len(self._train) // options.batch_size)
        steps = max(1, round(min(options.max_steps, per_epoch * options.max_epochs)))
        best = Evaluation(float("inf"), 0.0, 0)
        best_state: list[Tensor] = []
        stale = 0
        self._model.train()
        order = batches([len(example.ids) for example in self._train], options.batch_size, self._seed)
        for step, indices in enumerate(islice(order, steps), start=1):
            self._step([self._train[index] for index in indices], step - 1, steps)
            measured = None
            if self._held_out and (step % options.evaluate_every == 0 or step == steps):
                measured = evaluate(self._model, self._held_out, options.batch_size)
                # With every held-out answer exact already, a lower loss is no gain.
                gained = measured.loss < best.loss and best.exact_match < 1.0
                stale = 0 if gained else stale + 1
                if measured.loss < best.loss:
                    best, best_state = measured, [parameter.detach().clone() for parameter in self._parameters]
            if on_progress is not None:
                on_progress(Progress(step, steps, self.losses[-1], measured.loss if measured else None))
            if options.patience is not None and stale > options.patience:
                break
        if not best_state:
            return evaluate(self._model, self._held_out, options.batch_size)
        with torch.no_grad():
            for parameter, kept in zip(self._parameters, best_state, strict=True):
                parameter.copy_(kept)
        return best

    def _step(self, batch: Sequence[EncodedExample], step: int, steps: int) -> None:
        options = self._options
        factor = rate_factor(options.schedule, step, steps, options.warmup_steps)
        self._optimiser.param_groups[0]["lr"] = options.learning_rate * factor
        loss = mean_loss(*completion_logits(self._model, batch))
        loss.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(self._parameters, _CLIP_NORM)
        self._optimiser.step()
        self._optimiser.zero_grad()
        self.losses.append(float(loss.detach()))
        self.examples_seen += len(batch)


@contextmanager
def _threads(count: int | None) -> Iterator[None]:
    before = torch.get_num_threads()
    if count is not None:
        torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _save(model: PeftModel, folder: Path) -> None:
    """Writes config and weights alone, with a config whose bytes do not depend on the order of a set."""
    folder.mkdir(parents=True, exist_ok=True)
    model.save_pretrained(str(folder), safe_serialization=True)
    (folder / "README.md").unlink(missing_ok=True)
    path = folder / "adapter_config.json"
    config = json.loads(path.read_text())
    config["target_modules"] = sorted(config["target_modules"])
    path.write_text(json.dumps(config, indent=2, sort_keys=True) + "\n")
