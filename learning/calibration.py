"""The text that the features' standardisation is fitted on, the same for every deployment.

A few hundred short and different prompts of our own: requests, questions and messages in many languages, numbers,
dates, code, logs, tables. A mean and a scale fitted on it exist before the first record, do not depend on what a stream
happens to begin with, and never change: another text would be another, incompatible router, under another name.

Does not know how prompts are rendered or what features are.
"""

from __future__ import annotations

import hashlib
from functools import cache
from importlib.resources import files


@cache
def prompts() -> tuple[str, ...]:
    """The prompts as they stand, unrendered; in the file an empty line parts them."""
    return tuple(_text().strip("\n").split("\n\n"))


@cache
def name() -> str:
    """The text's name in fingerprints: its digest stands for the values fitted on it.

    The values themselves differ in their last digits between machines, as features do.
    """
    return f"calibration-{hashlib.sha256(_text().encode()).hexdigest()}"


@cache
def _text() -> str:
    return files("learning").joinpath("calibration.txt").read_text(encoding="utf-8")
