"""Which examples are held out, and the exam that is kept of them: they judge versions and are never trained on.

An exam is a reservoir: of all held-out examples that a segment has met, those with the smallest hash of their id. So it
is the same whatever came in which order, and a version's exam follows from the one before and what was held out since.
"""

from __future__ import annotations

import json
import re
import unicodedata
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from hashlib import blake2b

from actors.errors import ActorError
from learning.contract import Example
from streaming.plain_records import PlainRecord
from streaming.records import TaskRecord

_INVISIBLE = re.compile(
    "[\u034f\u115f\u1160\u17b4\u17b5\u180b-\u180d\u180f\u3164\ufe00-\ufe0f\uffa0\U000e0100-\U000e01ef]"
)
"""Joiners, fillers and variations: with the format characters, what is passed over where it can't be shown."""


def is_held_out(record: TaskRecord | PlainRecord, fraction: float) -> bool:
    """Tell whether an example is held out: by its own split, or by a hash of its domain and normalised prompt.

    By its text, not its id: the same question asked again under another id, in other case, spacing or Unicode form,
    falls on the same side. An explicit split wins, also where a sender gives one text both.
    """
    if record.split is not None:
        return record.split == "test"
    said = record.prompt
    if said is None:
        said = "\n".join([message.content for message in record.messages or ()])
    text = normalised(said)
    hashed = _begun(record.domain).copy()
    hashed.update(text.encode())
    return int.from_bytes(hashed.digest(), "big") < fraction * 2**64


@lru_cache(4_096)
def _begun(domain: str | None) -> blake2b:
    return blake2b(f"held-out\0{domain}\0".encode(), digest_size=8)


def normalised(text: str) -> str:
    """Return text without what does not change its meaning: compatibility forms, case, spacing, invisible marks."""
    if text.isascii():
        # Nothing below is in it, and mostly its only spacing are single spaces.
        folded = text.lower()
        is_spaced = folded.isprintable() and "  " not in folded and folded == folded.strip()
        return folded if is_spaced else " ".join(folded.split())
    # First, as a mark between a letter and its accent would keep the two from becoming one.
    unseen = [c for c in set(text) if _is_unseen(c)]
    seen = text.translate(dict.fromkeys(map(ord, unseen))) if unseen else text
    folded = unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", seen).casefold())
    return " ".join(folded.split())


@lru_cache(4_096)
def _is_unseen(character: str) -> bool:
    return unicodedata.category(character) == "Cf" or _INVISIBLE.match(character) is not None


@dataclass(frozen=True)
class ExamLimits:
    """How much is kept of each segment's held-out examples: rows, and bytes as they lie on disk. 0 rows: no exams."""

    rows: int
    bytes: int

    def chosen(self, domain: str, examples: Iterable[Example]) -> list[Example]:
        """Return the examples that an exam of the domain keeps of these, one for each id, in order of their ids."""
        by_id = {example.id: example for example in examples}
        ordered = sorted(by_id.values(), key=lambda example: _rank(domain, example.id))
        kept: list[Example] = []
        size = 0
        for example in ordered[: self.rows]:
            size += len(_line(example))
            if size > self.bytes:
                break
            kept.append(example)
        return sorted(kept, key=lambda example: example.id)


def exam_to_bytes(exam: Sequence[Example]) -> bytes:
    """Return an exam as its file holds it: a JSON object a line."""
    return b"".join(map(_line, exam))


def exam_from_bytes(content: bytes, where: str) -> list[Example]:
    """The inverse of `exam_to_bytes`; raises `ActorError` naming `where` for what is none."""
    try:
        return [Example(**json.loads(line)) for line in content.splitlines()]
    except (ValueError, TypeError) as error:
        raise ActorError(f"{where}: expected an exam, a JSON object a line, got {error}; restore it") from error


def _line(example: Example) -> bytes:
    # In ASCII: nothing in a text may pass for the end of a line.
    return json.dumps({"id": example.id, "prompt": example.prompt, "completion": example.completion}).encode() + b"\n"


def _rank(domain: str, example_id: str) -> bytes:
    return blake2b(f"exam\0{domain}\0{example_id}".encode(), digest_size=16).digest()
