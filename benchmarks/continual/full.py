"""Full fine-tuning of one model, domain after domain: plain, with replay, held by EWC, or joint.

Plain, each domain's training starts from the weights that the one before it left (SeqFT). Joint, it starts from the
base on all rows so far. Does not know which rows are kept (`kept_rows`) or how the spring is made (`sensitivity`).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

from torch import Tensor, nn

from benchmarks.continual.baseline_options import FullOptions, RowOptions
from benchmarks.continual.one_model import OneModel, TrainedPart, trainable
from benchmarks.continual.sensitivity import added, anchored, fisher, of_mean_one
from learning.base_delta import RevisableModel
from learning.completion_loss import EncodedExample
from learning.template import PromptTemplate
from learning.training_options import TrainingOptions

_WEIGHT, _NEED = "weight/", "need/"


class OfRows(OneModel):
    """The frame with rows as `RowOptions` has them."""

    def __init__(
        self, base: RevisableModel, template: PromptTemplate, options: RowOptions, seed: int, label: str
    ) -> None:
        self._joint = options.rows == "joint"
        share = options.replay_share if options.rows == "replay" else 0.0
        super().__init__(base, template, options, seed, label, share, self._joint)
        self._row_options = options

    def _of_this_task(self) -> TrainingOptions | None:
        if not self._joint:
            return self._options
        domains = len(self.tasks) + 1
        if domains < self._row_options.train_from:
            return None
        return self._options.model_copy(update={"max_steps": domains * self._options.max_steps})


class FullFineTuning(OfRows):
    """The base's own weights are trained."""

    def __init__(
        self, base: RevisableModel, template: PromptTemplate, options: FullOptions, seed: int, label: str
    ) -> None:
        super().__init__(base, template, options, seed, label)
        every = [name for name, _ in base.model.named_parameters()]
        self._names = every if options.all_parameters else trainable(base.model, options)
        self._left: dict[str, Tensor] = {}
        """The weights as the last training left them."""
        self._need: dict[str, Tensor] = {}

    @contextmanager
    def _opened(self, task: str, train: Sequence[EncodedExample]) -> Iterator[TrainedPart]:
        untrained = dict(self._base.model.named_parameters())
        # All that will change is put in, so that it is remembered.
        before = {} if self._joint else self._left
        with self._standing({name: before.get(name, untrained[name].detach()) for name in self._names}) as model:
            trained = self._trained()
            for parameter in trained.values():
                parameter.requires_grad_(True)
            rate = self._options.learning_rate
            group = {"params": list(trained.values()), "lr": rate, "peak": rate}
            penalty = anchored(trained, self._need, self._row_options.ewc)
            yield TrainedPart(model, [group], sum(each.numel() for each in trained.values()), penalty)

    def _keep(self, task: str, train: Sequence[EncodedExample]) -> None:
        trained = self._trained()
        self._left = {name: parameter.detach().cpu().clone() for name, parameter in trained.items()}
        if self._row_options.ewc:
            mine = fisher(self._loss, trained, self._fisher_rows(train, self._row_options.fisher_examples))
            self._need = added(self._need, of_mean_one(mine))

    def _weights(self, task: str) -> Mapping[str, Tensor]:
        return self._left

    def _kept(self) -> dict[str, Tensor]:
        weights = {_WEIGHT + name: tensor for name, tensor in self._left.items()}
        return {**weights, **{_NEED + name: tensor for name, tensor in self._need.items()}}

    def _take(self, kept: dict[str, Tensor]) -> None:
        self._left = {n.removeprefix(_WEIGHT): each for n, each in kept.items() if n.startswith(_WEIGHT)}
        self._need = {n.removeprefix(_NEED): each for n, each in kept.items() if n.startswith(_NEED)}

    def _trained(self) -> dict[str, nn.Parameter]:
        parameters = dict(self._base.model.named_parameters())
        return {name: parameters[name] for name in self._names}
