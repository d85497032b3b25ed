"""Whether a trained candidate may be published, and in whose place.

It must beat what would answer without it, judged on held-out loss, which moves before exact match does; and it takes
the place of the segment that it continues only if that one's exam shows no loss beyond noise. Does not know how the
candidate was trained or where it would go.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Annotated

from pydantic import Field

from learning.contract import Comparison, Evaluation, NewAdapter, TrainingResult
from learning.errors import LearningError
from learning.options import Count, Options

_CONFIDENCE = 0.95


@dataclass(frozen=True)
class Verdict:
    """The decision and, in one line, why."""

    accepted: bool
    reason: str
    segment_of_its_own: bool = False
    """Accepted, but beside the segments there are, not in the place of one."""


class Gate(Options):
    """What an adapter must show before it serves.

    A candidate is accepted whose held-out loss is below base's and incumbent's by more than `min_gain`; one without a
    single held-out miss also beside an incumbent it does not beat, because nothing is left to gain. Without held-out
    examples there is nothing to judge by: rejected. So is what other segments lose by beyond noise.
    """

    min_gain: Annotated[float, Field(ge=0.0, allow_inf_nan=False)] = 0.0
    """Held-out loss, nats a token, by which a candidate must beat the base and the version in service."""
    exam_rows: Annotated[int, Field(ge=0, le=2**31 - 1)] = 64
    """Held-out examples that are kept of each segment as its exam; an update that loses on it becomes a segment of its
    own. More tell smaller losses from noise and take longer at each update. 0 keeps none: updates replace, whatever
    they forget."""
    exam_bytes: Count = 2**20
    """Most bytes of text in a segment's exam."""
    loss_tolerance: Annotated[float, Field(ge=0.0, allow_inf_nan=False)] = 0.1
    """Rise of an exam's mean row loss, nats a token, that an update may surely cause and still replace."""
    exact_tolerance: Annotated[float, Field(ge=0.0, le=1.0)] = 0.02
    """Share of an exam's exact answers, 0 to 1, that an update may surely lose and still replace."""

    def decide(self, result: TrainingResult) -> Verdict:
        """The verdict on a finished job's own adapter, with which all else that it gives stands or falls. Raises
        `LearningError` where exams are not paired."""
        adapter = result.adapters[0]
        if result.failure:
            return Verdict(False, result.failure)
        gain = self._gain(adapter)
        if not gain.accepted:
            return gain
        if adapter.incumbent is not None and adapter.base is not None and adapter.continues is None:
            gain = self._begun(adapter.candidate, adapter.base, adapter.incumbent)
        verdict = gain
        for comparison in result.touched:
            if lost := self._lost(comparison):
                # A segment that keeps its adapter loses nothing; on a changed base none can keep it.
                keeps = (comparison.domain, comparison.segment) == (adapter.domain, adapter.continues)
                if not keeps or result.base_delta is not None:
                    return Verdict(False, lost)
                verdict = Verdict(True, f"{lost}: kept as a segment of its own", segment_of_its_own=True)
        return verdict

    def _gain(self, adapter: NewAdapter) -> Verdict:
        """By the held-out examples alone."""
        candidate, base, incumbent = adapter.candidate, adapter.base, adapter.incumbent
        if candidate.examples == 0 or base is None:
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

    @staticmethod
    def _begun(candidate: Evaluation, base: Evaluation, best: Evaluation) -> Verdict:
        """Of an accepted one that goes on from no segment, although there are some."""
        return Verdict(
            True,
            f"held-out loss {candidate.loss:.4f} beats the base's {base.loss:.4f} and, of the segments in service, the "
            f"best one's {best.loss:.4f}, from which there was nothing to go on: begun as a segment of its own",
            segment_of_its_own=True,
        )

    def _lost(self, comparison: Comparison) -> str:
        """What a segment would lose beyond noise, in words; empty where it would not."""
        from learning.paired_bootstrap import lower_bound  # settings are read without numpy

        before, after = comparison.before, comparison.after
        exam = f"exam of {comparison.domain} segment {comparison.segment}"
        sizes = {len(rows) for figures in (before, after) for rows in (figures.row_losses, figures.row_exact)}
        if len(sizes) != 1 or before.examples not in sizes:
            raise LearningError(
                f"{exam}: expected the same {before.examples} rows before and after, got {sorted(sizes)}; the learner "
                "has to give the figures of each row"
            )
        if before.examples == 0:
            return ""
        if not all(map(math.isfinite, after.row_losses)):
            return f"{exam}: a row's loss is not finite any more, over {after.examples} rows"
        drops = [was - now for was, now in zip(before.row_exact, after.row_exact, strict=True)]
        if (sure := lower_bound(drops, _CONFIDENCE)) > self.exact_tolerance:
            return (
                f"{exam}: exact match {before.exact_match:.2f} -> {after.exact_match:.2f} over {after.examples} rows "
                f"({_CONFIDENCE:.0%} sure of a loss of at least {sure:.2f})"
            )
        rises = [now - was for was, now in zip(before.row_losses, after.row_losses, strict=True)]
        if (sure := lower_bound(rises, _CONFIDENCE)) > self.loss_tolerance:
            was, now = (sum(figures.row_losses) / figures.examples for figures in (before, after))
            return (
                f"{exam}: loss {was:.3f} -> {now:.3f} nats a token over {after.examples} rows "
                f"({_CONFIDENCE:.0%} sure of a rise of at least {sure:.3f})"
            )
        return ""
