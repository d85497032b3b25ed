"""The optimisation of what a method trains: steps of AdamW over batches in pieces, the best state kept.

A step's gradient is that of the whole batch, whatever pieces it is taken in: each piece adds the sum of its tokens'
losses over the tokens of the batch. A training that diverges ends there, and says so; one whose process ends goes on in
another one from its last checkpoint, to the same result. Does not know what is trained, where examples come from, nor
what becomes of the outcome.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import islice
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from learning.completion_loss import CompletionLoss, EncodedExample
from learning.contract import Evaluation, Progress
from learning.divergence import Divergence
from learning.errors import LearningError
from learning.evaluation import evaluate
from learning.optimiser import Group, batches, rate_factor
from learning.resumption import Midway, Resumption
from learning.token_budget import TokenBudget
from learning.training_options import TrainingOptions

_CLIP_NORM = 1.0

Penalty = Callable[[], Tensor]
"""float32[]: what is added to the loss of a step, in nats a completion token, to be differentiated."""


class Constraint(Protocol):
    """What holds the parameters of a training where they may be."""

    def before_step(self) -> None:
        """May change the gradients, of all examples of the batch and not clipped yet."""

    def after_step(self) -> None:
        """May change the parameters."""


class Training:
    """Trains the parameters of `groups`, which are parts of `model`, each group with its `peak` step size.

    `penalty` is added to each step's loss, and not to what is reported; `constraint` sees each step, and `beside` are
    the tensors that it rests on or changes.
    """

    def __init__(
        self,
        options: TrainingOptions,
        model: nn.Module,
        loss: CompletionLoss,
        budget: TokenBudget,
        groups: Sequence[Group],
        penalty: Penalty | None = None,
        constraint: Constraint | None = None,
        beside: Mapping[str, Tensor] | None = None,
    ) -> None:
        self._options = options
        self._model = model
        self._loss = loss
        self._budget = budget
        self._penalty = penalty
        self._constraint = constraint
        self._beside = dict(beside or {})
        self._parameters: list[nn.Parameter] = [parameter for group in groups for parameter in group["params"]]
        self._optimiser = torch.optim.AdamW(list(groups), weight_decay=options.weight_decay, fused=True)
        # float16 has too little room below for the gradients of a mean over many tokens.
        self._scaler = torch.amp.GradScaler(self._device.type, enabled=options.dtype == "float16")
        self._kept: list[Tensor] = []
        self._best = Evaluation(math.inf, 0.0, 0)
        self._stale = 0
        self._divergence = Divergence()
        self._began = 0.0
        self.resumed_from = 0
        """The step after which an earlier process had left it."""
        self.earlier_seconds = 0.0
        """What the steps took before that."""
        self.losses: list[float] = []
        """Of each step, in nats per completion token of its batch."""
        self.examples_seen = 0
        self.failure = ""
        """Why the training ended before its time, where it diverged."""

    def to_the_end(
        self,
        train: Sequence[EncodedExample],
        watched: Sequence[EncodedExample],
        seed: int,
        on_progress: Callable[[Progress], None] | None,
        resumption: Resumption | None = None,
    ) -> None:
        """Steps over `train` until a limit, patience or divergence, from where `resumption` has it.

        The model then holds the state under which `watched` examples had the lowest loss, or the last one where there
        are none. Raises `LearningError` when memory runs out with a single example.
        """
        options = self._options
        steps = max(1, round(min(options.max_steps, -(-len(train) // options.batch_size) * options.max_epochs)))
        self._began = time.perf_counter()
        self._keep()
        with self._training():
            done = self._go_on(resumption) if resumption is not None else 0
            order = batches([len(example.ids) for example in train], options.batch_size, seed)
            for step, indices in enumerate(islice(order, done, steps), start=done + 1):
                self._step([train[index] for index in indices], step - 1, steps)
                self.failure = self._divergence.seen(self.losses[-1])
                measured = None
                if watched and not self.failure and (step % options.evaluate_every == 0 or step == steps):
                    measured = self._measure(watched, step)
                if on_progress is not None:
                    on_progress(Progress(step, steps, self.losses[-1], measured.loss if measured else None, done))
                if self.failure or (options.patience is not None and self._stale > options.patience):
                    break
                if resumption is not None and resumption.is_due():
                    resumption.keep(self._midway())
        if watched or self.failure:
            self._restore()

    @property
    def train_loss(self) -> float:
        """Mean over the last tenth of the steps, in nats per completion token."""
        tail = self.losses[-max(1, len(self.losses) // 10) :]
        return sum(tail) / len(tail)

    def _measure(self, watched: Sequence[EncodedExample], step: int) -> Evaluation:
        measured = evaluate(self._loss, self._budget, self._model, watched)
        if not math.isfinite(measured.loss):
            self.failure = f"training diverged: the held-out loss is {measured.loss} at step {step}"
        # With every held-out answer exact already, a lower loss is no gain.
        self._stale = 0 if measured.loss < self._best.loss and self._best.exact_match < 1.0 else self._stale + 1
        if measured.loss < self._best.loss:
            self._best = measured
            self._keep()
        return measured

    def _step(self, batch: Sequence[EncodedExample], step: int, steps: int) -> None:
        factor = rate_factor(self._options.schedule, step, steps, self._options.warmup_steps)
        for group in self._optimiser.param_groups:
            group["lr"] = group["peak"] * factor
        tokens = sum(example.completion_tokens for example in batch)

        def backward(piece: list[EncodedExample]) -> float:
            loss = self._loss.total(piece) / tokens
            self._scaler.scale(loss).backward()  # type: ignore[no-untyped-call]
            return float(loss.detach())

        # Long rows first: where memory is going to run out, it does so before work is done in vain.
        longest_first = sorted(batch, key=lambda example: -len(example.ids))
        loss = sum(self._budget.each(backward, longest_first, self._optimiser.zero_grad))
        if self._penalty is not None:
            self._scaler.scale(self._penalty()).backward()  # type: ignore[no-untyped-call]
        if math.isfinite(loss):  # else the weights would be lost as well
            self._scaler.unscale_(self._optimiser)
            if self._constraint is not None:
                self._constraint.before_step()
            torch.nn.utils.clip_grad_norm_(self._parameters, _CLIP_NORM)
            self._scaler.step(self._optimiser)
            self._scaler.update()
            if self._constraint is not None:
                self._constraint.after_step()
        self._optimiser.zero_grad()
        self.losses.append(loss)
        self.examples_seen += len(batch)

    def _midway(self) -> Midway:
        optimiser = self._optimiser.state_dict()["state"]
        return Midway(
            facts={
                "losses": self.losses,
                "examples_seen": self.examples_seen,
                "seconds": self.earlier_seconds + time.perf_counter() - self._began,
                "best": [self._best.loss, self._best.exact_match, self._best.examples],
                "stale": self._stale,
                "tokens": self._budget.tokens,
                "scaler": self._scaler.state_dict(),
            },
            tensors={
                **self._tensors(),
                **{f"optimiser.{n}.{name}": each for n, state in optimiser.items() for name, each in state.items()},
                "random.cpu": torch.get_rng_state(),
                **({"random.cuda": torch.cuda.get_rng_state(self._device)} if self._device.type == "cuda" else {}),
            },
        )

    def _tensors(self) -> dict[str, Tensor]:
        """What is trained, its best state, and what the constraint goes by: as they are, in place."""
        trained = {f"trained.{n}": each.detach() for n, each in enumerate(self._parameters)}
        kept = {f"kept.{n}": each for n, each in enumerate(self._kept)}
        return {**trained, **kept, **{f"beside.{name}": each for name, each in self._beside.items()}}

    def _go_on(self, resumption: Resumption) -> int:
        """Takes up where an earlier process has left it; returns the steps done by then, and changes nothing for 0."""
        found = resumption.found()
        if found is None:
            return 0
        try:
            self._take_up(found)
        except LearningError as error:
            resumption.refuse(error)
            return 0
        self.resumed_from = len(self.losses)
        return self.resumed_from

    @torch.no_grad()
    def _take_up(self, found: Midway) -> None:
        there, facts, state = self._tensors(), found.facts, self._optimiser.state_dict()
        expected = {name: each.shape for name, each in there.items()}
        if expected != {name: found.tensors[name].shape for name in expected.keys() & found.tensors.keys()}:
            raise LearningError("checkpoint: expected tensors of what is trained, got others")
        for name, tensor in there.items():
            tensor.copy_(found.tensors[name])
        for name, tensor in found.tensors.items():
            kind, _, rest = name.partition(".")
            if kind == "optimiser":
                number, _, what = rest.partition(".")
                state["state"].setdefault(int(number), {})[what] = tensor.clone()
        self._optimiser.load_state_dict(state)
        self._scaler.load_state_dict(facts["scaler"])
        self._best, self._stale = Evaluation(*facts["best"]), facts["stale"]
        self._budget.tokens = facts["tokens"]
        self.losses, self.examples_seen = facts["losses"], facts["examples_seen"]
        self.earlier_seconds = facts["seconds"]
        for loss in self.losses:
            self._divergence.seen(loss)
        torch.set_rng_state(found.tensors["random.cpu"])
        if self._device.type == "cuda":
            torch.cuda.set_rng_state(found.tensors["random.cuda"], self._device)

    @property
    def _device(self) -> torch.device:
        return self._parameters[0].device

    def _keep(self) -> None:
        self._kept = [parameter.detach().clone() for parameter in self._parameters]

    @torch.no_grad()
    def _restore(self) -> None:
        for parameter, kept in zip(self._parameters, self._kept, strict=True):
            parameter.copy_(kept)

    @contextmanager
    def _training(self) -> Iterator[None]:
        # PEFT's wrapper has what is trained inside, and passes neither of the two on.
        base: Any = getattr(self._model, "get_base_model", lambda: self._model)()
        if self._options.gradient_checkpointing:
            base.gradient_checkpointing_enable({"use_reentrant": False})
        self._model.train()
        try:
            yield
        finally:
            self._model.eval()
            if self._options.gradient_checkpointing:
                base.gradient_checkpointing_disable()
