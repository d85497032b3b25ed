"""General text of our own: what people ask an assistant that is no domain's business.

Short requests, questions and messages of many kinds. The router counts their features as a class of their own, for
which the base model answers, so that a router of few domains does not find one of them in everything. Other texts than
the calibration's, which scale the features: what scales is no sample of what is asked.

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
    """The text's name, by its content."""
    return f"general-{hashlib.sha256(_text().encode()).hexdigest()}"


@cache
def _text() -> str:
    return files("learning").joinpath("general.txt").read_text(encoding="utf-8")
