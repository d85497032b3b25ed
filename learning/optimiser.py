"""The optimiser's schedule and the order of batches. Knows no model.

Learning rate at step s of S with w warm-up steps: rises linearly over the first w, then with t = (s - w) / (S - w)
stays, falls as 1 - t, or falls as (1 + cos(pi t)) / 2.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Literal

import numpy as np

Schedule = Literal["cosine", "constant", "linear"]


def rate_factor(schedule: Schedule, step: int, steps: int, warmup_steps: int) -> float:
    """The factor on the learning rate at `step`, counted from 0.

    >>> [rate_factor("linear", step, 4, 0) for step in range(4)]
    [1.0, 0.75, 0.5, 0.25]
    """
    if step < warmup_steps:
        return (step + 1) / (warmup_steps + 1)
    if schedule == "constant":
        return 1.0
    done = (step - warmup_steps) / max(1, steps - warmup_steps)
    return 1.0 - done if schedule == "linear" else (1.0 + math.cos(math.pi * done)) / 2.0


def batches(lengths: Sequence[int], batch_size: int, seed: int) -> Iterator[list[int]]:
    """Endless batches of indices, epoch by epoch, every index once an epoch.

    Each epoch is shuffled, then sorted by length within stretches of eight batches, so that a batch holds rows of
    similar length (little padding) and still differs from epoch to epoch.
    """
    generator = np.random.Generator(np.random.PCG64(seed))
    stretch = 8 * batch_size
    while True:
        shuffled = generator.permutation(len(lengths))
        epoch: list[list[int]] = []
        for start in range(0, len(shuffled), stretch):
            similar = sorted((int(index) for index in shuffled[start : start + stretch]), key=lengths.__getitem__)
            epoch.extend(similar[first : first + batch_size] for first in range(0, len(similar), batch_size))
        for index in generator.permutation(len(epoch)):
            yield epoch[index]
