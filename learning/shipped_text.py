"""A text file that comes with this package: prompts parted by empty lines, and a name by content.

Does not know what a text is for.
"""

from __future__ import annotations

import hashlib
from functools import cached_property
from importlib.resources import files


class ShippedText:
    """The file `<title>.txt` beside this module; read once, when it is first asked for."""

    def __init__(self, title: str) -> None:
        self._title = title

    def prompts(self) -> tuple[str, ...]:
        """The prompts as they stand, unrendered."""
        return tuple(self._content.strip("\n").split("\n\n"))

    def name(self) -> str:
        """The title and the sha256 of the content: another text has another name."""
        return f"{self._title}-{hashlib.sha256(self._content.encode()).hexdigest()}"

    @cached_property
    def _content(self) -> str:
        return files("learning").joinpath(f"{self._title}.txt").read_text(encoding="utf-8")
