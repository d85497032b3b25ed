"""How an actor says that it lives; apart from the actors, whose imports its readers don't need."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass

from actors.loop import Loop


@dataclass(frozen=True)
class Vitals:
    """Since when an actor is up, and how its loops go."""

    up_seconds: float
    progress_seconds: float | None
    """Seconds since a step last succeeded, of the loop for which that is longest ago; None without loops."""
    trouble: str | None
    """What its loops fail for now."""


def vitals_of(started: float, loops: Sequence[Loop]) -> Vitals:
    """Return the vitals of an actor that was made at `started` (monotonic) and goes by these loops."""
    troubles = [f"{loop.name}: {loop.trouble}" for loop in loops if loop.trouble]
    return Vitals(
        time.monotonic() - started,
        max((loop.progress_seconds() for loop in loops), default=None),
        "; ".join(troubles) or None,
    )
