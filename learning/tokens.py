"""Token id lists: shortening to a limit and padding to a rectangle. Knows neither tokenizer nor model."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


def shorten(ids: Sequence[int], limit: int) -> list[int]:
    """At most `limit` ids, the middle cut out: instructions stand at the start, the question at the end.

    >>> shorten([1, 2, 3, 4, 5, 6], 4)
    [1, 2, 5, 6]
    """
    if len(ids) <= limit:
        return list(ids)
    tail = limit // 2
    return [*ids[: limit - tail], *(ids[len(ids) - tail :])]


def pad_right(rows: Sequence[Sequence[int]], value: int) -> Tensor:
    """int64[b, t] with each row's ids first and `value` behind them."""
    width = max(len(row) for row in rows)
    return torch.tensor([[*row, *([value] * (width - len(row)))] for row in rows], dtype=torch.int64)
