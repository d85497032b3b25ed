"""Words that may leave the system: one line, of bounded length, without traceback, path, address, process id or key.

The last guard before an answer. Who raises an error writes it for its reader in the first place; this is for what
comes from a library, from another process or from the operating system. Knows no error class and no HTTP.
"""

from __future__ import annotations

import re
from typing import Annotated

from pydantic import AfterValidator

from registry.key_form import masked

MAX_CHARACTERS = 600
"""More of an error than anybody reads."""

_LOOKED_AT = 8_000
_CUT = "..."
_COLOUR = re.compile(r"\x1b\[[0-9;]*[A-Za-z]")
_TRACEBACK = re.compile(r'Traceback \(most recent call last\)|^[ \t]*File "[^"\n]+", line \d+', re.MULTILINE)
# What a traceback's last line begins with: the error's class, with its module or a name that ends as errors' do.
_CLASS = re.compile(r"^(?:\w+\.)+[A-Z]\w*: |^[A-Z]\w*(?:Error|Exception|Failed): ")
_INNER = (
    re.compile(r" ?\((?:pid|ip|actor_id|repr)=[^)\n]*\)"),
    re.compile(r"\b(?:pid|ip|actor_id|node_id|worker_id|job_id)\b ?[=:] ?[\w.:-]+"),
    re.compile(r"\b[a-z][a-z+.]*://[^\s'\"`,;)]+"),
    re.compile(r"\b\d{1,3}(?:\.\d{1,3}){3}(?::\d+)?\b"),
    re.compile(r"(?<![\w:])\[?(?:[0-9a-f]{0,4}:){3,7}[0-9a-f]{1,4}\]?(?::\d+)?(?!\w)", re.IGNORECASE),
    re.compile(r"\b(?:localhost|[\w-]+(?:\.[\w-]+)+):\d{1,5}\b"),
    re.compile(r"\b0x[0-9a-f]{4,}\b", re.IGNORECASE),
    re.compile(r"(?:[\w.~-]*/)?[\w./-]*\w\.py\b(?:[:,] ?(?:line )?\d+)?"),
    # Folders and files from the root or from home. Paths of this service's own are for the reader, and stay.
    re.compile(r"(?<![\w.:/<])(?:~|/(?!v1/|openapi\.json))[\w.@+=-]*(?:/[\w.@+=-]+)+/?"),
)


def plain(text: str) -> str:
    """The text as one line for whoever asked. Of a traceback, what the error said."""
    if not text:
        return text
    if len(text) > 2 * _LOOKED_AT:
        text = f"{text[:_LOOKED_AT]}\n{text[-_LOOKED_AT:]}"
    lines = [line.strip() for line in _COLOUR.sub("", text).splitlines() if line.strip()]
    if _TRACEBACK.search(text) and lines:
        lines = [_CLASS.sub("", lines[-1])]
    line = " ".join(" ".join(lines).encode(errors="replace").decode().split())
    if len(line) > MAX_CHARACTERS:
        line = line[: MAX_CHARACTERS - len(_CUT)] + _CUT
    for inner in _INNER:
        line = inner.sub(_CUT, line)
    return masked(line)


Words = Annotated[str, AfterValidator(plain)]
"""A field of an answer that tells a person why."""
