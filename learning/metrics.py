"""Figures of continual learning and of routing.

R[t, i] is the accuracy on domain i after the t-th of T domains has been learnt, both counted from 0. After Lopez-Paz
and Ranzato, "Gradient Episodic Memory", arXiv 1706.08840. Knows nothing of models.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

from learning.errors import LearningError


def backward_transfer(accuracy: ArrayLike) -> float:
    """What later domains did to earlier ones: (1/(T-1)) sum_{i<T-1} (R[T-1, i] - R[i, i]); negative is forgetting.

    The divisor is T-1: the last domain has nothing after it. 0 for a single domain.

    >>> backward_transfer([[0.75, 0.0], [0.5, 1.0]])
    -0.25
    """
    matrix_TT = _square(accuracy)
    if len(matrix_TT) == 1:
        return 0.0
    return float((matrix_TT[-1] - matrix_TT.diagonal())[:-1].mean())


def routing_accuracy(chosen: Sequence[str | None], expected: Sequence[str | None]) -> float:
    """Share of prompts sent where they belong; None is abstaining to the base.

    >>> routing_accuracy(["a", None, "b", "b"], ["a", "a", "b", None])
    0.5
    """
    if len(chosen) != len(expected) or not expected:
        raise LearningError(f"routing accuracy: expected equally many, got {len(chosen)} for {len(expected)}")
    return sum(c == e for c, e in zip(chosen, expected, strict=True)) / len(expected)


def auroc(inside: ArrayLike, outside: ArrayLike) -> float:
    """Probability that a score from inside is above one from outside; ties count half.

    >>> auroc([0.9, 0.5], [0.5, 0.1])
    0.875
    """
    inside_N = np.asarray(inside, dtype=np.float64).ravel()
    outside_M = np.asarray(outside, dtype=np.float64).ravel()
    if not inside_N.size or not outside_M.size:
        raise LearningError(f"auroc: expected scores on both sides, got {inside_N.size} and {outside_M.size}")
    outside_M = np.sort(outside_M)
    below = np.searchsorted(outside_M, inside_N, side="left")
    not_above = np.searchsorted(outside_M, inside_N, side="right")
    return float((below + not_above).sum() / (2 * inside_N.size * outside_M.size))


def _square(accuracy: ArrayLike) -> NDArray[np.float64]:
    matrix_TT = np.asarray(accuracy, dtype=np.float64)
    if matrix_TT.ndim != 2 or matrix_TT.shape[0] != matrix_TT.shape[1] or matrix_TT.shape[0] == 0:
        raise LearningError(f"accuracy matrix: expected T x T with T >= 1, got shape {matrix_TT.shape}")
    return matrix_TT
