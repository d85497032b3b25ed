"""What happens to a domain now, and when what failed is tried again. In memory only: the stage itself follows from
what is durable, so nothing is lost with it.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, field, replace

from actors.errors import NotCaughtUp, PublicationFailed, Unreachable, in_words
from actors.ports import LearnerPort
from learning.errors import LearningError
from serving.api import DomainState

_LONGEST_PAUSE_S = 60.0
"""Between tries of what was down: it comes back, however long it takes."""
_LONGEST_REFUSED_PAUSE_S = 600.0
"""Between tries of what was refused: most likely it will be again, but what refused it may be mended."""
_FIRST_REST_S, _LONGEST_REST_S = 60.0, 6 * 3600.0
"""After a rejection: a training takes a learner from others for minutes, and its outcome is likely to be the same."""
_OFTEN = 9
"""Refusals in a row, over more than eight minutes, after which no version of the rows is to be hoped for."""


@dataclass(kw_only=True)
class Pause:
    """When to try again what failed: after a time that grows with each failure in a row, up to a longest."""

    failures: int = 0
    """In a row, since something last worked."""
    retry_at: float = 0.0
    """Monotonic time before which it is left alone."""

    def lengthen(self, error: Exception) -> None:
        """Wait longer than last time; what was refused may be left alone for longer than what was down."""
        self.failures += 1
        refused = isinstance(error, (LearningError, PublicationFailed))
        longest = _LONGEST_REFUSED_PAUSE_S if refused else _LONGEST_PAUSE_S
        self.retry_at = time.monotonic() + min(2.0 ** min(self.failures, 30), longest)

    def end(self) -> None:
        """Note that it worked."""
        self.failures, self.retry_at = 0, 0.0

    def is_over(self) -> bool:
        """Tell whether it may be tried again."""
        return self.retry_at <= time.monotonic()

    def left(self) -> float:
        """Return the seconds until it may."""
        return max(self.retry_at - time.monotonic(), 0.0)


@dataclass
class Stage(Pause):
    """Where a domain is on its way, in words; of the decisions, only when to try again rests on it."""

    state: DomainState = "open"
    detail: str = ""
    learner: LearnerPort | None = None
    awaits_examples: bool = False
    """Whether new examples are a reason to go on before the pause is over."""
    rows: int = 0
    """Rows, train and held out, of which no version was accepted, also those given up since: as many new ones are such
    a reason. By fewer, however often they are marked as an end, it would be trained from all rows each time."""
    rejections: int = 0
    """Versions that the gate has rejected in a row."""
    refusals: int = 0
    """Trainings that the method has refused in a row."""
    timings: dict[str, float] = field(default_factory=dict)

    def is_due(self, fresh: int) -> bool:
        """Tell whether it may be tried now, with this many new rows that are complete."""
        return self.is_over() or (self.awaits_examples and 0 < fresh >= self.rows)

    @property
    def is_resting(self) -> bool:
        """Whether it is not learned for its own fault: rejected, or refused often, and left alone for now."""
        is_refused = self.state == "failed" and self.refusals >= _OFTEN
        return (self.state == "rejected" or is_refused) and not self.is_over()

    def fail(self, error: Exception) -> None:
        """Note what went wrong, and wait: longer each time, never for ever."""
        self.detail = in_words(error)
        if isinstance(error, NotCaughtUp):
            # The router only has to read on.
            self.retry_at = time.monotonic() + 0.5
            return
        self.state = "failed"
        self.awaits_examples = isinstance(error, (LearningError, PublicationFailed))
        self.refusals = self.refusals + 1 if isinstance(error, LearningError) else 0
        first = self.failures == 0
        self.lengthen(error)
        if first and isinstance(error, Unreachable):
            # Who worked on it has died: there may be others, or it is back already.
            self.retry_at = 0.0

    def begun(self, rows: int) -> Stage:
        """Return the stage of work on a version of this many rows; 0 where its rows are settled."""
        # No more of them than were rejected: those are gone.
        are_others = self.state == "rejected" and 0 < rows <= self.rows
        tried = self.rows + rows if are_others else max(self.rows, rows)
        return replace(self, state="closed", detail="", awaits_examples=False, rows=tried, retry_at=0.0)

    def reject(self, reason: str) -> None:
        """Note that the gate has rejected a version, and let the domain rest: longer each time, never for ever."""
        self.state, self.detail, self.awaits_examples = "rejected", reason, True
        self.rejections, self.refusals = self.rejections + 1, 0
        self.end()
        self.retry_at = time.monotonic() + min(_FIRST_REST_S * 2.0 ** min(self.rejections - 1, 30), _LONGEST_REST_S)

    def succeed(self, state: DomainState, detail: str) -> None:
        """Note what has become of it."""
        self.state, self.detail, self.awaits_examples = state, detail, False
        self.rejections = self.refusals = self.rows = 0
        self.end()

    def in_words(self) -> str:
        """Return the detail, of a failure and of a rest with what ends it."""
        enough = f"{self.rows} new examples are complete" if self.rows else "new examples are complete"
        if self.state == "rejected" and not self.is_over():
            return f"{self.detail}; rests for {self.left():.0f} s or until {enough}"
        if self.state != "failed":
            return self.detail
        sooner = f" or when {enough}" if self.awaits_examples else ""
        return f"{self.detail}; next try in {self.left():.0f} s{sooner}"
