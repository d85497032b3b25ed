"""What happens to a domain now, and when what failed is tried again. In memory only: the stage itself follows from
what is durable, so nothing is lost with it.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, field

from actors.errors import NotCaughtUp, PublicationFailed, Unreachable, in_words
from actors.ports import LearnerPort
from learning.errors import LearningError
from serving.api import DomainState

_LONGEST_PAUSE_S = 60.0
"""Between tries of what was down: it comes back, however long it takes."""
_LONGEST_REFUSED_PAUSE_S = 600.0
"""Between tries of what was refused: most likely it will be again, but what refused it may be mended."""


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
    timings: dict[str, float] = field(default_factory=dict)

    def is_due(self, has_more: bool) -> bool:
        """Tell whether it may be tried now; `has_more` when new examples are complete."""
        return self.is_over() or (self.awaits_examples and has_more)

    def fail(self, error: Exception) -> None:
        """Note what went wrong, and wait: longer each time, never for ever."""
        self.detail = in_words(error)
        if isinstance(error, NotCaughtUp):
            # The router only has to read on.
            self.retry_at = time.monotonic() + 0.5
            return
        self.state = "failed"
        self.awaits_examples = isinstance(error, (LearningError, PublicationFailed))
        first = self.failures == 0
        self.lengthen(error)
        if first and isinstance(error, Unreachable):
            # Who worked on it has died: there may be others, or it is back already.
            self.retry_at = 0.0

    def succeed(self, state: DomainState, detail: str) -> None:
        """Note what has become of it."""
        self.state, self.detail, self.awaits_examples = state, detail, False
        self.end()

    def in_words(self) -> str:
        """Return the detail, of a failure with the time of the next try."""
        if self.state != "failed":
            return self.detail
        sooner = " or when new examples are complete" if self.awaits_examples else ""
        return f"{self.detail}; next try in {self.left():.0f} s{sooner}"
