"""Figures of an accuracy matrix R: R[t][i] is the score of the stream's i-th task after its t-th, both from 0.

    AA_t = mean over i <= t of R[t][i]                        (TRACE's OP)
    BWT  = sum over i < T-1 of (R[T-1][i] - R[i][i]) / divisor   divisor T-1 (Lopez-Paz and Ranzato, and TRACE's tables)
                                                              or T (SEEKR's script: 7/8 of the other for eight tasks)
    FWT  = mean over i >= 1 of (R[i-1][i] - zero[i])           zero: the scores before the first task
    F    = mean over i < T-1 of (max over i <= t < T-1 of R[t][i] - R[T-1][i])

A learner that learns nothing forgets nothing: AA, the diagonal's mean and BWT say something together only. Knows no
method and no file.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

Matrix = Sequence[Sequence[float]]


def average_accuracy(matrix: Matrix) -> float:
    """AA after the last task."""
    last = len(matrix) - 1
    return _mean([matrix[last][task] for task in range(last + 1)])


def diagonal(matrix: Matrix) -> float:
    """Mean of every task's score right after it was learned."""
    return _mean([matrix[task][task] for task in range(len(matrix))])


def backward_transfer(matrix: Matrix, divisor: Literal["T-1", "T"] = "T-1") -> float:
    """BWT; 0 for a single task."""
    last = len(matrix) - 1
    total = sum(matrix[last][task] - matrix[task][task] for task in range(last))
    return total / max(1, last if divisor == "T-1" else last + 1)


def forward_transfer(matrix: Matrix, zero: Sequence[float]) -> float:
    """FWT; 0 for a single task."""
    return _mean([matrix[task - 1][task] - zero[task] for task in range(1, len(matrix))])


def forgetting(matrix: Matrix) -> float:
    """F, of the best that was ever reached before the last task; 0 for a single task."""
    last = len(matrix) - 1
    return _mean([max(matrix[at][task] for at in range(task, last)) - matrix[last][task] for task in range(last)])


def changed(answers: Sequence[Sequence[Sequence[object]]]) -> float:
    """Mean share of the rows of earlier tasks that a new one answers otherwise: `answers[t][i]` are those of rows.

    Over all pairs of a task and one learned before it, every pair alike; 0 for a single task.
    """
    shares = []
    for at in range(1, len(answers)):
        for task in range(at):
            pairs = list(zip(answers[at - 1][task], answers[at][task], strict=True))
            shares.append(_mean([float(before != after) for before, after in pairs]))
    return _mean(shares)


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values) if values else 0.0
