"""How an actor is, as it says itself."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Vitals:
    """Seconds since it was made, seconds since the loop furthest behind last got on (None without loops), and what it
    has to complain of."""

    up_seconds: float
    progress_seconds: float | None = None
    trouble: str | None = None
