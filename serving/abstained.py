"""Why a prompt that named no model was left to the base: a token for headers and metrics, and the words.

Knows the decision on one prompt; nothing of manifests and requests.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal, get_args

Token = Literal["low-confidence", "nothing-published", "unreadable"]
TOKENS: tuple[Token, ...] = get_args(Token)


@dataclass(frozen=True)
class Abstained:
    """`token` is ASCII without spaces and commas; `words` are one line for a person."""

    token: Token
    words: str


NOTHING_TO_CHOOSE = Abstained("nothing-published", "no domain is published that a prompt could be routed to")
UNREADABLE = Abstained("unreadable", "the prompt is empty: there is nothing to route it by")


def low_confidence(confidence: float, threshold: float, keep: float | None = None) -> Abstained:
    """`keep`: the share of held-out prompts of its domains that the threshold keeps, 0 to 1."""
    share = "" if keep is None else f", which keeps {100 * keep:g} % of held-out prompts of its domains"
    what = f"is below the threshold {threshold:.2f}" if math.isfinite(confidence) else "is no number"
    return Abstained("low-confidence", f"confidence {confidence:.2f} {what}{share}")
