"""Observing: from spooled rows to the router's sums, each once, and past what can't be turned into features.

The router's watermarks decide where this goes on, so a crash on either side repeats nothing. A row whose features can't
be had, or are not finite, would stop everything behind it for good: it is found by halving the block and goes to the
dead letters. This module knows neither the source nor what becomes of the rows later.
"""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Sequence

import numpy as np

from actors.errors import in_words
from actors.observation import Observation, Watermarks, example_digest
from actors.ports import SumsPort
from actors.quiet import Quiet
from actors.spool import Block, Spool, SpooledRow
from learning.features import FeatureExtractor
from learning.statistics import Statistics
from learning.symmetric import Float64
from streaming.errors import RecordError
from streaming.source import Envelope, TopicPartition

Letter = tuple[Envelope, RecordError]

_ASK_AGAIN_S = 2.0
_PLAIN = "a"
"""A prompt that any sound extractor takes."""


class Observer:
    """Submits what the router has not applied yet; `watermarks` is where it stood when last heard of.

    `put_letters` keeps unusable rows durably; `block_rows` are submitted at once.
    """

    def __init__(
        self,
        spool: Spool,
        extractor: FeatureExtractor,
        router: SumsPort,
        put_letters: Callable[[Sequence[Letter]], None],
        quiet: Quiet,
        *,
        block_rows: int,
    ) -> None:
        self._spool, self._router, self._put_letters, self._quiet = spool, router, put_letters, quiet
        self._block_rows, self._extractor = block_rows, extractor
        self.watermarks: dict[TopicPartition, int] = dict(router.watermarks())
        self.duplicates = 0
        self._asked_at = 0.0
        self._observing = threading.Lock()

    def observe_once(self) -> int:
        """Submit one block to the router; returns the rows applied (0 when there is nothing to do yet)."""
        with self._observing:
            return self._observe()

    def forget(self, domain: str, watermarks: Watermarks | None) -> int:
        """Delete what waits of a domain; no row of it is on its way to the router when this returns."""
        with self._observing:
            return self._spool.forget(domain, watermarks)

    def _observe(self) -> int:
        if time.monotonic() - self._asked_at > _ASK_AGAIN_S:
            # A restarted router stands further back than the last receipt said.
            self.watermarks = dict(self._router.watermarks())
            self._asked_at = time.monotonic()
        block = self._spool.block(self.watermarks, self._block_rows)
        if block is None:
            return 0
        rows, statistics = self._with_statistics(self._without_repeats(block))
        digests: dict[str, list[bytes]] = {}
        for row in rows:
            digests.setdefault(row.domain, []).append(example_digest(row.domain, row.record_id))
        receipt = self._router.observe(
            Observation(block.spans, {domain: tuple(known) for domain, known in digests.items()}, statistics)
        )
        self.watermarks = dict(receipt.watermarks)
        self._asked_at = time.monotonic()
        if receipt.duplicates:
            self._discard([row for row in rows if example_digest(row.domain, row.record_id) in receipt.duplicates])
        if not receipt.applied:
            return 0
        self._quiet.stir(digests)
        return len(rows)

    # -- rows ---------------------------------------------------------------------------------------------------------

    def _without_repeats(self, block: Block) -> list[SpooledRow]:
        kept: dict[bytes, SpooledRow] = {}
        repeats: list[SpooledRow] = []
        for row in block.rows:
            digest = example_digest(row.domain, row.record_id)
            if digest in kept:
                repeats.append(row)
            else:
                kept[digest] = row
        self._discard(repeats)
        return list(kept.values())

    def _discard(self, rows: Sequence[SpooledRow]) -> None:
        if rows:
            self._spool.discard((row.partition, row.offset) for row in rows)
            self.duplicates += len(rows)

    def _with_statistics(self, rows: Sequence[SpooledRow]) -> tuple[list[SpooledRow], Statistics | None]:
        """Return the usable rows, and the statistics of those to be trained on, None where there are none.

        The others are dead letters when this returns, and then deleted: put twice after a crash, one is listed once.
        """
        training = [row for row in rows if not row.held_out]
        if not training:
            return list(rows), None
        features, refused = _extracted(training, self._extractor)
        if refused:
            # Whose fault is it? An extractor that refuses any prompt must not empty the stream into the dead letters.
            if not np.isfinite(self._extractor.extract([_PLAIN])).all():
                raise next(iter(refused.values()))
            self._put_letters([(_envelope(training[at]), _unusable(training[at], why)) for at, why in refused.items()])
            bad = {(training[at].partition, training[at].offset) for at in refused}
            self._spool.discard(bad)
            rows = [row for row in rows if (row.partition, row.offset) not in bad]
        domains = [row.domain for row in rows if not row.held_out]
        return list(rows), Statistics.of(features, domains, self._extractor.fingerprint) if domains else None


def _extracted(rows: Sequence[SpooledRow], extractor: FeatureExtractor) -> tuple[Float64, dict[int, Exception]]:
    """Return the features of the rows that have any, and of the others, by place, what is wrong with them."""
    try:
        features = extractor.extract([row.prompt for row in rows])
    except Exception as error:
        if isinstance(error, OSError) or (isinstance(error, MemoryError) and len(rows) == 1):
            # No row's fault, and it passes.
            raise
        if len(rows) == 1:
            return np.empty((0, 0)), {0: error}
        middle = len(rows) // 2
        left, bad_left = _extracted(rows[:middle], extractor)
        right, bad_right = _extracted(rows[middle:], extractor)
        parts = [part for part in (left, right) if len(part)]
        return (
            np.concatenate(parts) if parts else left,
            {**bad_left, **{middle + at: why for at, why in bad_right.items()}},
        )
    finite = np.isfinite(features).all(axis=1)
    bad = {int(at): ValueError("its features are not finite") for at in np.flatnonzero(~finite)}
    return features[finite], dict(bad)


def _unusable(row: SpooledRow, error: Exception) -> RecordError:
    return RecordError("bad-record", f"record {row.record_id!r}: no features can be had of it: {in_words(error)}")


def _envelope(row: SpooledRow) -> Envelope:
    """Return the row as a record in its old place: the sender's own bytes are not kept that long.

    Its prompt is the rendered one, as `meta` says; who sends it again sends the sender's.
    """
    record = {
        "id": row.record_id,
        "domain": row.domain,
        "prompt": row.prompt,
        "completion": row.completion,
        "split": "train",
        "meta": {"prompt": "rendered"},
    }
    value = json.dumps(record, ensure_ascii=False).encode()
    headers = (("content-type", b"application/json"),)
    return Envelope(*row.partition, row.offset, row.record_id.encode(), value, headers, 0)
