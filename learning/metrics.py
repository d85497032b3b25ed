"""Figures of continual learning and of routing.

R[t, i] is the accuracy on domain i after the t-th of T domains has been learnt, both counted from 0; the entries above
the diagonal (domains not learnt yet) matter only to forward transfer. After Lopez-Paz and Ranzato, "Gradient Episodic
Memory", arXiv 1706.08840, and Chaudhry et al., "Riemannian Walk", arXiv 1801.10112. Knows nothing of models.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

from learning.errors import LearningError


def average_accuracy(accuracy: ArrayLike) -> float:
    """Mean over all domains after the last one: (1/T) sum_i R[T-1, i].

    >>> average_accuracy([[0.8, 0.0], [0.6, 1.0]])
    0.8
    """
    return float(_square(accuracy)[-1].mean())


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


def forward_transfer(accuracy: ArrayLike, untrained: ArrayLike) -> float:
    """What earlier domains did for one not learnt yet: (1/(T-1)) sum_{i>0} (R[i-1, i] - untrained[i]).

    `untrained` holds the base model's accuracy on each domain. The divisor is T-1. 0 for a single domain.

    >>> forward_transfer([[0.75, 0.5], [0.5, 1.0]], [0.0, 0.25])
    0.25
    """
    matrix_TT = _square(accuracy)
    untrained_T = np.asarray(untrained, dtype=np.float64)
    if untrained_T.shape != (len(matrix_TT),):
        raise LearningError(f"forward transfer: expected {len(matrix_TT)} base figures, got {untrained_T.shape}")
    if len(matrix_TT) == 1:
        return 0.0
    return float((matrix_TT.diagonal(offset=1) - untrained_T[1:]).mean())


def forgetting(accuracy: ArrayLike) -> float:
    """Mean loss against each domain's best: (1/(T-1)) sum_{i<T-1} (max_{t<T-1, t>=i} R[t, i] - R[T-1, i]).

    The divisor is T-1. 0 for a single domain.

    >>> forgetting([[0.5, 0.0, 0.0], [0.75, 1.0, 0.0], [0.25, 0.5, 1.0]])
    0.5
    """
    matrix_TT = _square(accuracy)
    last = len(matrix_TT) - 1
    if last == 0:
        return 0.0
    return float(np.mean([matrix_TT[i:last, i].max() - matrix_TT[last, i] for i in range(last)]))


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
