"""Which examples are held out: those that judge a version and are never trained on."""

from __future__ import annotations

import re
import unicodedata
from hashlib import blake2b

from streaming.records import TaskRecord

_INVISIBLE = re.compile(
    "[\u034f\u115f\u1160\u17b4\u17b5\u180b-\u180d\u180f\u3164\ufe00-\ufe0f\uffa0\U000e0100-\U000e01ef]"
)
"""Joiners, fillers and variations: with the format characters, what is passed over where it can't be shown."""


def is_held_out(record: TaskRecord, fraction: float) -> bool:
    """Tell whether an example is held out: by its own split, or by a hash of its domain and normalised prompt.

    By its text, not its id: the same question asked again under another id, in other case, spacing or Unicode form,
    falls on the same side. An explicit split wins, also where a sender gives one text both.
    """
    if record.split is not None:
        return record.split == "test"
    text = normalised("\n".join(message["content"] for message in record.messages_or_prompt()))
    digest = blake2b(f"held-out\0{record.domain}\0{text}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") < fraction * 2**64


def normalised(text: str) -> str:
    """Return text without what does not change its meaning: compatibility forms, case, spacing, invisible marks."""
    # First, as a mark between a letter and its accent would keep the two from becoming one.
    seen = "".join(c for c in text if unicodedata.category(c) != "Cf" and not _INVISIBLE.match(c))
    folded = unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", seen).casefold())
    return " ".join(folded.split())
