"""How large an adapter is, and how large one may be.

    |s B A|_F = s sqrt(tr((B'B)(A A')))        of two r x r matrices, exact in float64

A layer's norm is that of all its modules together. Adapters in service bound it by their median m and the spread of
their logarithms d (median absolute deviation, scaled to a normal's): by exp(6 d), at least 10 and at most 100 times m.
Where there is none, a module may change by four times its weight: by 1.5 times small bases at high rates were seen to.
Knows no file.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from learning.errors import LearningError

_FEWEST_TIMES, _MOST_TIMES = 10.0, 100.0
_SPREADS = 6.0
_OF_WEIGHT = 4.0
_TO_NORMAL = 1.4826
_LAYER = re.compile(r"\.layers\.(\d+)\.")


class Weights(Protocol):
    """The base's weights, by module."""

    def norm(self, module: str) -> float: ...


def effective_norm(a_RI: NDArray[np.float64], b_OR: NDArray[np.float64], scale: float) -> float:
    """|s B A|_F, from finite A[r, inputs] and B[outputs, r]."""
    return scale * math.sqrt(max(float(np.sum((b_OR.T @ b_OR) * (a_RI @ a_RI.T))), 0.0))


def layer_norms(norms: Mapping[str, float]) -> dict[int, float]:
    """By layer, the norm of all its modules together."""
    squares: dict[int, float] = {}
    for module, each in norms.items():
        if match := _LAYER.search(module):
            squares[int(match[1])] = squares.get(int(match[1]), 0.0) + each**2
    return {layer: math.sqrt(total) for layer, total in squares.items()}


def most_norm(peers: Sequence[float]) -> float:
    """What a layer's norm may be beside those of others, which are above 0."""
    logs = np.log(peers)
    middle = float(np.median(logs))
    spread = _TO_NORMAL * float(np.median(np.abs(logs - middle)))
    return math.exp(middle + min(max(_SPREADS * spread, math.log(_FEWEST_TIMES)), math.log(_MOST_TIMES)))


def check_norms(norms: Mapping[str, float], peers: Sequence[Mapping[str, float]], weights: Weights) -> None:
    """Raise `LearningError` unless an adapter changes something, and nothing beyond what others do, or the base's
    weights allow where there are no others. Norms are by module."""
    if not any(norms.values()):
        raise LearningError("expected an adapter that changes something, got A or B zero everywhere; train it first")
    others = [each for peer in peers for each in layer_norms(peer).values() if each > 0.0]
    if others:
        most = most_norm(others)
        for layer, found in sorted(layer_norms(norms).items()):
            if not found <= most:
                raise LearningError(
                    f"layer {layer}: expected a change of norm at most {most:.4g}, by the adapters in service, got "
                    f"{found:.4g}; see to lora_alpha and the training"
                )
        return
    for module, found in sorted(norms.items()):
        most = _OF_WEIGHT * weights.norm(module)
        if not found <= most:
            raise LearningError(
                f"{module}: expected a change of norm at most {most:.4g}, {_OF_WEIGHT:.0f} times the base's weight, "
                f"got {found:.4g}; see to lora_alpha and the training"
            )
