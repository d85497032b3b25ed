"""Decisions that were made already: a text that is asked for again costs no layers.

Each scorer belongs to one manifest, and what is remembered belongs to a scorer and goes with it: no decision outlives a
publication. Texts are known by their digest, so that how long they are does not matter. Used on one event loop.
"""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from collections.abc import Callable, Sequence
from weakref import WeakKeyDictionary

from serving.scorer import Decision, Scorer, Scoring

MAX_BYTES = 8 << 20
"""Of the decisions of one scorer."""

# What a digest, an entry and a decision take, and each score with its place among the others.
_ENTRY_BYTES, _SCORE_BYTES = 900, 80


class Decided:
    """The decisions asked for last, within `max_bytes`."""

    def __init__(self, max_bytes: int = MAX_BYTES) -> None:
        self.bytes = 0
        self._max_bytes = max_bytes
        self._by_digest: OrderedDict[bytes, Decision] = OrderedDict()

    def get(self, digest: bytes) -> Decision | None:
        """The decision on the text of this digest, or None."""
        decision = self._by_digest.get(digest)
        if decision is not None:
            self._by_digest.move_to_end(digest)
        return decision

    def put(self, digest: bytes, decision: Decision) -> None:
        """Remember it, and forget what was not asked for longest where all take too much."""
        if digest not in self._by_digest:
            self.bytes += _size(decision)
        self._by_digest[digest] = decision
        while self.bytes > self._max_bytes:
            self.bytes -= _size(self._by_digest.popitem(last=False)[1])


class RememberedScoring:
    """Scoring that asks `scoring` for what is not remembered only; `told` of how many texts were, and were not."""

    def __init__(self, scoring: Scoring, told: Callable[[int, int], None], max_bytes: int = MAX_BYTES) -> None:
        self._scoring = scoring
        self._told = told
        self._max_bytes = max_bytes
        self._of: WeakKeyDictionary[Scorer, Decided] = WeakKeyDictionary()

    async def route(self, scorer: Scorer, texts: Sequence[str]) -> list[Decision]:
        """One decision per text, in order; equal texts are scored once. Raises what `scoring` raises, and remembers
        nothing of that request then."""
        decided = self._of.setdefault(scorer, Decided(self._max_bytes))
        digests = [hashlib.sha256(text.encode(errors="surrogatepass")).digest() for text in texts]
        known = {digest: decision for digest in digests if (decision := decided.get(digest)) is not None}
        new = {digest: text for digest, text in zip(digests, texts, strict=True) if digest not in known}
        self._told(len(texts) - len(new), len(new))
        if new:
            made = await self._scoring.route(scorer, list(new.values()))
            for digest, decision in zip(new, made, strict=True):
                known[digest] = decision
                decided.put(digest, decision)
        return [known[digest] for digest in digests]


def _size(decision: Decision) -> int:
    return _ENTRY_BYTES + _SCORE_BYTES * len(decision.scores)
