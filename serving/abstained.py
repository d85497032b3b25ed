"""Why a prompt that named no model was left to the base: a token for headers and metrics, and the words.

Knows the decision on one prompt; nothing of manifests and requests.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal, get_args

Token = Literal["low-confidence", "background", "nothing-published", "unreadable"]
TOKENS: tuple[Token, ...] = get_args(Token)


@dataclass(frozen=True)
class Abstained:
    """`token` is ASCII without spaces and commas; `words` are one line for a person."""

    token: Token
    words: str


NOTHING_TO_CHOOSE = Abstained("nothing-published", "no domain is published that a prompt could be routed to")
UNREADABLE = Abstained("unreadable", "the prompt is empty: there is nothing to route it by")


def background(score: float, best: float) -> Abstained:
    """`score` is the background's, `best` that of the domain that scores highest."""
    digits = _digits(score, best)
    return Abstained("background", f"general text scores {score:.{digits}f}, the best domain {best:.{digits}f}")


def low_confidence(confidence: float, threshold: float, keep: float) -> Abstained:
    """`keep`: the share of held-out prompts of its domains that the threshold keeps, 0 to 1."""
    if not math.isfinite(confidence):
        return Abstained("low-confidence", "its confidence is no finite number")
    share = f"which keeps {100 * keep:g} % of held-out prompts of its domains"
    digits = _digits(confidence, threshold)
    numbers = f"confidence {confidence:.{digits}f} is below the threshold {threshold:.{digits}f}"
    return Abstained("low-confidence", f"{numbers}, {share}")


def _digits(lower: float, higher: float) -> int:
    """Decimals enough to tell the two apart: what lies below must not be told as equal."""
    return next((n for n in range(2, 17) if f"{lower:.{n}f}" != f"{higher:.{n}f}"), 17)
