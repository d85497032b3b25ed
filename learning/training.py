"""The optimisation of what a method trains: steps of AdamW over batches in pieces, the best state kept.

A step's gradient is that of the whole batch, whatever pieces it is taken in: each piece adds the sum of its tokens'
losses over the tokens of the batch. A training that diverges ends there, and says so. Does not know what is trained,
where examples come from, nor what becomes of the outcome.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from itertools import islice
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from learning.completion_loss import CompletionLoss, EncodedExample
from learning.contract import Evaluation, Progress
from learning.divergence import Divergence
from learning.evaluation import evaluate
from learning.optimiser import Group, batches, rate_factor
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

    `penalty` is added to each step's loss, and not to what is reported; `constraint` sees each step.
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
    ) -> None:
        self._options = options
        self._model = model
        self._loss = loss
        self._budget = budget
        self._penalty = penalty
        self._constraint = constraint
        self._parameters: list[nn.Parameter] = [parameter for group in groups for parameter in group["params"]]
        self._optimiser = torch.optim.AdamW(list(groups), weight_decay=options.weight_decay, fused=True)
        # float16 has too little room below for the gradients of a mean over many tokens.
        self._scaler = torch.amp.GradScaler(self._parameters[0].device.type, enabled=options.dtype == "float16")
        self._kept: list[Tensor] = []
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
    ) -> None:
        """Steps over `train` until a limit, patience or divergence.

        The model then holds the state under which `watched` examples had the lowest loss, or the last one where there
        are none. Raises `LearningError` when memory runs out with a single example.
        """
        options = self._options
        steps = max(1, round(min(options.max_steps, -(-len(train) // options.batch_size) * options.max_epochs)))
        best = Evaluation(math.inf, 0.0, 0)
        stale = 0
        divergence = Divergence()
        self._keep()
        with self._training():
            order = batches([len(example.ids) for example in train], options.batch_size, seed)
            for step, indices in enumerate(islice(order, steps), start=1):
                self._step([train[index] for index in indices], step - 1, steps)
                self.failure = divergence.seen(self.losses[-1])
                measured = None
                if watched and not self.failure and (step % options.evaluate_every == 0 or step == steps):
                    measured = evaluate(self._loss, self._budget, self._model, watched)
                    if not math.isfinite(measured.loss):
                        self.failure = f"training diverged: the held-out loss is {measured.loss} at step {step}"
                    # With every held-out answer exact already, a lower loss is no gain.
                    stale = 0 if measured.loss < best.loss and best.exact_match < 1.0 else stale + 1
                    if measured.loss < best.loss:
                        best = measured
                        self._keep()
                if on_progress is not None:
                    on_progress(Progress(step, steps, self.losses[-1], measured.loss if measured else None))
                if self.failure or (options.patience is not None and stale > options.patience):
                    break
        if watched or self.failure:
            self._restore()

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
