"""Tells when a training has diverged: its loss is no number, or has grown tenfold. Knows no model.

Watched is the running mean m_s = 0.9 m_(s-1) + 0.1 l_s of the steps' losses; the first ten steps fill it.
"""

from __future__ import annotations

import math

_KEPT = 0.9
_FILLING = 10
_GROWTH = 10.0
_SMALL = 0.1
"""Nats a token: below this a domain is learned, and a tenfold loss is a hard batch."""


class Divergence:
    """Watches one training."""

    def __init__(self) -> None:
        self._mean = math.nan
        self._best = math.inf
        self._steps = 0

    def seen(self, loss: float) -> str:
        """What is wrong after one more step with this loss (nats a token), in words; empty while nothing is."""
        self._steps += 1
        if not math.isfinite(loss):
            return f"training diverged: the loss is {loss} at step {self._steps}; lower learning_rate"
        filled = min(self._steps, _FILLING)
        kept = min(_KEPT, (filled - 1) / filled)
        self._mean = loss if self._steps == 1 else kept * self._mean + (1 - kept) * loss
        if self._steps < _FILLING:
            return ""
        self._best = min(self._best, self._mean)
        if self._mean <= _GROWTH * max(self._best, _SMALL):
            return ""
        return (
            f"training diverged: the loss has grown to {self._mean:.4g} nats a token at step {self._steps} from "
            f"{self._best:.4g} at its best; lower learning_rate"
        )
