"""Teacher-forced figures of a model over examples. Does not know what the model is, nor what is decided by them."""

from __future__ import annotations

from collections.abc import Sequence

from torch import nn

from learning.completion_loss import CompletionLoss, EncodedExample, RowFigures
from learning.contract import Evaluation
from learning.token_budget import TokenBudget


def evaluate(
    loss: CompletionLoss, budget: TokenBudget, model: nn.Module, examples: Sequence[EncodedExample]
) -> Evaluation:
    """Figures over all examples, in their order, without dropout; zeros for none.

    `loss` measures completions under `model`, in pieces of `budget`. Raises `LearningError` when memory runs out.
    """
    if not examples:
        return Evaluation(0.0, 0.0, 0)
    rows = row_figures(loss, budget, model, examples)
    exact = tuple(row.exact for row in rows)
    counts = [example.completion_tokens for example in examples]
    return Evaluation(
        loss=sum(row.loss for row in rows) / sum(counts),
        exact_match=sum(exact) / len(exact),
        examples=len(exact),
        row_losses=tuple(row.loss / count for row, count in zip(rows, counts, strict=True)),
        row_exact=exact,
    )


def row_figures(
    loss: CompletionLoss, budget: TokenBudget, model: nn.Module, examples: Sequence[EncodedExample]
) -> list[RowFigures]:
    """Of each example in order, as `evaluate` takes them."""
    training = model.training
    model.eval()
    order = sorted(range(len(examples)), key=lambda index: -len(examples[index].ids))
    pieces = budget.each(loss.rows, [examples[index] for index in order])
    model.train(training)
    found = dict(zip(order, (row for piece in pieces for row in piece), strict=True))
    return [found[index] for index in range(len(examples))]
