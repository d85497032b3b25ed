"""General text: what people ask of a language model at large, the same for every deployment.

Some hundred questions and requests of our own about the world, words, numbers, code and stories. A router that has
them as a class of their own (`learning.heads.BACKGROUND`) leaves such prompts to the base, however few domains it
knows. No requests of the kind that services are built for: those would stand against the domains that people teach.

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
    """The text's name in fingerprints: a router fed with another one is another, incompatible router."""
    return f"general-{hashlib.sha256(_text().encode()).hexdigest()}"


@cache
def _text() -> str:
    return files("learning").joinpath("general.txt").read_text(encoding="utf-8")
