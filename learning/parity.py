"""Whether an engine serves an adapter as it was learned: both read the same few held-out examples.

With l_i the loss of example i under the adapter in the learner, s_i in the engine, and b_i in the engine without it,

    mean |s_i - l_i|  <=  a quarter of mean |b_i - l_i|, and what rounding makes of equal weights

An adapter without effect has s = b, one with another's effect is as far from l as the base or farther: neither passes,
where the adapter has an effect at all beyond rounding. Does not know how an engine reads.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import fmean
from typing import TYPE_CHECKING

from learning.contract import Evaluation, ParityRow

if TYPE_CHECKING:
    from learning.completion_loss import EncodedExample

_ROWS = 4
_TOKENS = 256
"""Longest example that is taken: it has to be quick, and is kept."""
_SHARE = 0.25
_ROUNDING = {"float32": 0.01, "bfloat16": 0.1, "float16": 0.05}
"""Nats a token, in the mean over a completion, by which two programs may differ that compute the same."""


def parity_rows(
    examples: Sequence[EncodedExample], adapted: Evaluation, bare: Evaluation | None = None
) -> tuple[ParityRow, ...]:
    """A few of the examples that `adapted` was measured on, as it found them: those on which the adapter differs most
    from the base where `bare` says, else the shortest. Cut and long ones are left out, and what is no number."""
    found = [
        (example, loss, bare.row_losses[at] - loss if bare else -float(len(example.ids)))
        for at, (example, loss) in enumerate(zip(examples, adapted.row_losses, strict=True))
        if math.isfinite(loss) and not example.is_cut and len(example.ids) <= _TOKENS
    ]
    found.sort(key=lambda row: -abs(row[2]) if bare else -row[2])
    return tuple(ParityRow(tuple(example.ids), example.prompt_tokens, loss) for example, loss, _ in found[:_ROWS])


def disagreement(learned: Sequence[float], served: Sequence[float], bare: Sequence[float], dtype: str) -> str | None:
    """Why an engine that computes in `dtype` does not serve what was learned, in words; None where it does.

    Losses of the same examples in nats a token: in the learner, in the engine with the adapter and without it.
    """
    apart = fmean(abs(each - own) for each, own in zip(served, learned, strict=True))
    effect = fmean(abs(each - own) for each, own in zip(bare, learned, strict=True))
    allowed = _SHARE * effect + _ROUNDING[dtype]
    if apart <= allowed:
        return None
    none = fmean(abs(each - own) for each, own in zip(served, bare, strict=True)) <= allowed
    return (
        f"it has {'no' if none else 'another'} effect: of {len(learned)} held-out examples the engine's losses are "
        f"{apart:.3g} nats a token from the learner's, expected at most {allowed:.3g} (the base's are {effect:.3g})"
    )
