"""Teacher-forced figures of a model over examples. Does not know what the model is, nor what is decided by them."""

from __future__ import annotations

from collections.abc import Sequence

from torch import nn

from learning.completion_loss import CompletionLoss, EncodedExample
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
    training = model.training
    model.eval()
    order = sorted(range(len(examples)), key=lambda index: -len(examples[index].ids))
    pieces = budget.each(loss.rows, [examples[index] for index in order])
    model.train(training)
    found = dict(zip(order, (row for piece in pieces for row in piece), strict=True))
    sums = [found[index][0] for index in range(len(examples))]
    exact = tuple(found[index][1] for index in range(len(examples)))
    counts = [example.completion_tokens for example in examples]
    return Evaluation(
        loss=sum(sums) / sum(counts),
        exact_match=sum(exact) / len(exact),
        examples=len(exact),
        row_losses=tuple(row / count for row, count in zip(sums, counts, strict=True)),
        row_exact=exact,
    )
