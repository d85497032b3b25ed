"""Scores of models on the tasks' rows, every row measured once for every model that is another one.

What a model is told by: its weights' bytes, and its losses on a probe to the last bit. A model that is the same in both
is not asked again, so that an adapter a domain costs one evaluation and not one after every domain. Knows no method.
"""

from __future__ import annotations

import hashlib
import math
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass, replace

from peft import PeftModel
from torch import nn, uint8
from transformers import AutoTokenizer, PreTrainedModel

from benchmarks.continual.cells import ANSWER_DIGITS
from benchmarks.continual.generating import generate
from benchmarks.continual.method import Task
from benchmarks.continual.metrics import METRICS
from benchmarks.continual.workbench import Workbench
from cluster.errors import ClusterError
from learning import general
from learning.checkpoint import resolve
from learning.completion_loss import CompletionLoss, EncodedExample
from learning.contract import Example
from learning.evaluation import evaluate, row_figures
from learning.output_layer import OutputLayer

GENERAL = "#general"
"""Stands for the general text (`learning.general`), read as it is; no task has this name."""
_PROBE_ROWS = 8
_REMEMBERED = 64
"""Models whose rows are kept."""


@dataclass(frozen=True)
class RowResult:
    """Of one row: what its answer is worth, 0 to 1, and its completion's cross-entropy in nats."""

    score: float
    loss: float
    tokens: int
    answer: str
    """Digits that tell one answer from another: of what was generated, else of the likeliest tokens, teacher-forced."""


@dataclass(frozen=True)
class ModelIdentity:
    """A model that `answering` gave, and what it is told by."""

    model: PreTrainedModel
    name: str


class Examiner:
    """The rows that judge, encoded once."""

    def __init__(self, workbench: Workbench, tasks: Sequence[Task], *, held_out: bool = False) -> None:
        """By test rows, or by held-out ones. Raises `ClusterError` where a completion is too long."""
        self._workbench = workbench
        self._rows = {task.name: task.held_out if held_out else task.test for task in tasks}
        self._metrics = {task.name: task.metric for task in tasks}
        self._encoded = {name: workbench.encoded(rows, f"task {name}") for name, rows in self._rows.items()}
        self._encoded[GENERAL] = _general(workbench)
        self._probe = [
            rows[place] for place in range(_PROBE_ROWS) for rows in self._encoded.values() if place < len(rows)
        ]
        self._known: OrderedDict[str, dict[tuple[str, int], RowResult]] = OrderedDict()

    @property
    def counts(self) -> dict[str, int]:
        """Rows of each task."""
        return {name: len(rows) for name, rows in self._rows.items()}

    def prompts(self, task: str) -> list[str]:
        """Rendered ones."""
        return [row.prompt for row in self._rows[task]]

    def meet(self, model: nn.Module) -> ModelIdentity:
        """Looks at a model, which is to be asked while it is as it is now."""
        inner = plain(model)
        digest = hashlib.sha256()
        for name, tensor in inner.state_dict().items():
            digest.update(name.encode())
            digest.update(tensor.detach().cpu().contiguous().view(-1).view(uint8).numpy())
        figures = evaluate(self._loss(inner), self._workbench.budget(), inner, self._probe[:_PROBE_ROWS])
        digest.update(repr(figures.row_losses).encode())
        return ModelIdentity(inner, digest.hexdigest())

    def sit(self, who: ModelIdentity, task: str, rows: Sequence[int] | None = None) -> list[RowResult]:
        """Results of the chosen rows of a task, or all, in their order."""
        known = self._known.setdefault(who.name, {})
        self._known.move_to_end(who.name)
        while len(self._known) > _REMEMBERED:
            self._known.popitem(last=False)
        chosen = range(len(self._encoded[task])) if rows is None else rows
        if missing := [row for row in chosen if (task, row) not in known]:
            for row, result in zip(missing, self._measured(who.model, task, missing), strict=True):
                known[task, row] = result
        return [known[task, row] for row in chosen]

    def _measured(self, model: PreTrainedModel, task: str, rows: Sequence[int]) -> list[RowResult]:
        encoded = [self._encoded[task][row] for row in rows]
        figures = row_figures(self._loss(model), self._workbench.budget(), model, encoded)
        results = [
            RowResult(float(row.exact), row.loss, each.completion_tokens, _digits(row.likeliest))
            for row, each in zip(figures, encoded, strict=True)
        ]
        if task == GENERAL or METRICS[self._metrics[task]].score is None:
            return results
        answers = self._generated(model, self._metrics[task], [self._rows[task][row] for row in rows], encoded)
        return [
            replace(result, score=score, answer=_digits(answer))
            for result, (answer, score) in zip(results, answers, strict=True)
        ]

    def _generated(
        self, model: PreTrainedModel, metric: str, rows: Sequence[Example], encoded: Sequence[EncodedExample]
    ) -> list[tuple[str, float]]:
        """Answers and what they are worth."""
        of = METRICS[metric]
        longest = of.tokens or max(each.completion_tokens for each in encoded)
        tokenizer = AutoTokenizer.from_pretrained(resolve(self._workbench.base))
        prompts = [each.ids[: each.prompt_tokens] for each in encoded]
        terminator = self._workbench.template.terminator
        answers = generate(model, tokenizer, prompts, longest, terminator, self._workbench.rows)
        scored = zip(answers, rows, strict=True)
        return [(answer, of.of(answer, row.completion, row.prompt)) for answer, row in scored]

    def _loss(self, model: PreTrainedModel) -> CompletionLoss:
        return CompletionLoss(OutputLayer(model), self._workbench.logit_chunk)


def plain(model: nn.Module) -> PreTrainedModel:
    """A method's model without PEFT's wrapper, its adapter inside. Raises `ClusterError` for one of another kind."""
    inner = model.get_base_model() if isinstance(model, PeftModel) else model
    if not isinstance(inner, PreTrainedModel):
        raise ClusterError(f"a method's model: expected one of transformers or PEFT, got {type(model).__name__}")
    return inner


def mean_score(results: Sequence[RowResult]) -> float:
    """Mean over rows."""
    return math.fsum(each.score for each in results) / len(results)


def mean_loss(results: Sequence[RowResult]) -> float:
    """Nats per completion token."""
    return math.fsum(each.loss for each in results) / sum(each.tokens for each in results)


def _digits(answer: object) -> str:
    return hashlib.sha256(repr(answer).encode()).hexdigest()[:ANSWER_DIGITS]


def _general(workbench: Workbench) -> list[EncodedExample]:
    """Each text's tokens, of which the first is given."""
    tokens = [workbench.template.encode_prompt(text)[: workbench.max_tokens] for text in general.prompts()]
    return [EncodedExample(ids, 1) for ids in tokens if len(ids) > 1]
