"""Whether a trained candidate may be published: it must beat what would answer without it.

Judged on held-out loss, which moves before exact match does. Does not know how the candidate was trained or where it
would go.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from learning.contract import TrainingResult


@dataclass(frozen=True)
class Verdict:
    """The decision and, in one line, why."""

    accepted: bool
    reason: str


@dataclass(frozen=True)
class Gate:
    """Accepts a candidate whose held-out loss is below base's and incumbent's by more than `min_gain`.

    `min_gain` is in nats per token. A candidate without a single held-out miss is also accepted beside an incumbent it
    does not beat: nothing is left to gain. Without held-out examples there is nothing to judge by: rejected, unless
    `accept_unmeasured`.
    """

    min_gain: float = 0.0
    accept_unmeasured: bool = False

    def decide(self, result: TrainingResult) -> Verdict:
        """The verdict on a finished job."""
        candidate, base, incumbent = result.candidate, result.base, result.incumbent
        if candidate.examples == 0:
            return Verdict(self.accept_unmeasured, "no held-out examples to judge by")
        if not math.isfinite(candidate.loss):
            return Verdict(False, f"held-out loss is {candidate.loss}")
        if candidate.loss >= base.loss - self.min_gain:
            return Verdict(False, f"held-out loss {candidate.loss:.4f} does not beat the base's {base.loss:.4f}")
        if incumbent is None:
            return Verdict(True, f"held-out loss {candidate.loss:.4f} beats the base's {base.loss:.4f}")
        if candidate.loss < incumbent.loss - self.min_gain:
            return Verdict(True, f"held-out loss {candidate.loss:.4f} beats the incumbent's {incumbent.loss:.4f}")
        if candidate.exact_match == 1.0:
            return Verdict(True, "every held-out answer is exact, as good as the incumbent can be")
        return Verdict(False, f"held-out loss {candidate.loss:.4f} does not beat the incumbent's {incumbent.loss:.4f}")
