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
BACKGROUND = Abstained("background", "it is more like general text than like any domain's prompts")


def low_confidence(confidence: float, threshold: float, keep: float) -> Abstained:
    """`keep`: the share of held-out prompts of its domains that the threshold keeps, 0 to 1."""
    if not math.isfinite(confidence):
        return Abstained("low-confidence", "its confidence is no finite number")
    share = f"which keeps {100 * keep:g} % of held-out prompts of its domains"
    # Digits enough to tell the two apart: what is below must not be told as equal.
    digits = next((n for n in range(2, 17) if f"{confidence:.{n}f}" != f"{threshold:.{n}f}"), 17)
    numbers = f"confidence {confidence:.{digits}f} is below the threshold {threshold:.{digits}f}"
    return Abstained("low-confidence", f"{numbers}, {share}")
