"""Whether a trained candidate may be published: it must beat what would answer without it.

Judged on held-out loss, which moves before exact match does. Does not know how the candidate was trained or where it
would go.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Annotated

from pydantic import Field

from learning.contract import TrainingResult
from learning.options import Options


@dataclass(frozen=True)
class Verdict:
    """The decision and, in one line, why."""

    accepted: bool
    reason: str


class Gate(Options):
    """What an adapter must show before it serves.

    A candidate is accepted whose held-out loss is below base's and incumbent's by more than `min_gain`; one without a
    single held-out miss also beside an incumbent it does not beat, because nothing is left to gain. Without held-out
    examples there is nothing to judge by: rejected.
    """

    min_gain: Annotated[float, Field(ge=0.0, allow_inf_nan=False)] = 0.0
    """Held-out loss, nats a token, by which a candidate must beat the base and the version in service."""

    def decide(self, result: TrainingResult) -> Verdict:
        """The verdict on a finished job."""
        candidate, base, incumbent = result.candidate, result.base, result.incumbent
        if candidate.examples == 0:
            return Verdict(False, "no held-out examples to judge by")
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
