"""Token id lists: shortening to a limit and padding to a rectangle. Knows neither tokenizer nor model."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

_PADDING = 24
"""Tokens of padding that any rectangle may have: to compute them takes about as long as to begin another rectangle."""
_PADDED_SHARE = 1 / 8
"""Padding for each real token that a rectangle may have beyond that."""


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


def batches(lengths: Sequence[int], rows: int) -> Iterator[list[int]]:
    """Places of all lengths, the shortest first, in rectangles of at most `rows` and little padding.

    >>> list(batches([5, 90, 6, 91], rows=32))
    [[0, 2], [1, 3]]
    """
    batch: list[int] = []
    padding = real = 0
    for place in sorted(range(len(lengths)), key=lengths.__getitem__):
        length = lengths[place]
        if batch:
            padding += (length - lengths[batch[-1]]) * len(batch)
            if len(batch) == rows or padding > max(_PADDING, _PADDED_SHARE * (real + length)):
                yield batch
                batch, padding, real = [], 0, 0
        batch.append(place)
        real += length
    if batch:
        yield batch


def runs(lengths: Sequence[int], rows: int, tokens: int) -> Iterator[slice]:
    """All lengths in their order, at most `rows` of them together, and no more than `tokens` unless one alone has more.

    >>> list(runs([5, 90, 6, 91], rows=32, tokens=100))
    [slice(0, 2, None), slice(2, 4, None)]
    """
    first = taken = 0
    for place, length in enumerate(lengths):
        if place > first and (place - first == rows or taken + length > tokens):
            yield slice(first, place)
            first, taken = place, 0
        taken += length
    if first < len(lengths):
        yield slice(first, len(lengths))
