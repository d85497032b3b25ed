"""The optimiser's schedule, its step sizes and the order of batches. Knows no model.

Learning rate at step s of S with w warm-up steps: rises linearly over the first w, then with t = (s - w) / (S - w)
stays, falls as 1 - t, or falls as (1 + cos(pi t)) / 2.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, Literal, TypeAlias

import numpy as np
from torch import nn

Schedule = Literal["cosine", "constant", "linear"]
Group: TypeAlias = dict[str, Any]
"""An optimiser's group: `params`, and as `peak` their greatest step size."""


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


def rate_groups(parameters: Iterable[tuple[str, nn.Parameter]], learning_rate: float, b_rate: float) -> list[Group]:
    """An optimiser's groups with a step size and, as `peak`, its greatest one; B's is `b_rate` times A's.

    Of the two factors of B A, B starts at zero and may take the larger steps (LoRA+, arXiv 2402.12354).
    """
    groups: list[Group] = [{"params": [], "lr": rate, "peak": rate} for rate in (learning_rate, learning_rate * b_rate)]
    for name, parameter in parameters:
        groups[int(".lora_B." in name)]["params"].append(parameter)
    return [group for group in groups if group["params"]]


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
