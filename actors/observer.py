"""Observing: from spooled rows to the router's sums, each once, and past what can't be turned into features.

Where the router stands decides where this goes on, and what becomes of a row it decides alone, so a crash on either
side repeats nothing and a row known already costs no features. A row whose features can't be had, or are not usable,
or that makes the router refuse what it stands in, would stop everything behind it for good: it is found by halving the
block and goes to the dead letters. This module knows neither the source nor what becomes of the rows later.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from typing import TypeVar

import numpy as np

from actors.errors import in_words
from actors.following import Following
from actors.observation import Background, Fate, HeldOutRows, Observation, RowKey, example_digest
from actors.packs import SpooledRow
from actors.ports import SumsPort
from actors.quiet import Quiet
from actors.spool import Block, Spool
from learning import general
from learning.features import FeatureExtractor
from learning.heads import BACKGROUND
from learning.statistics import Statistics, usable_rows
from learning.symmetric import Float64
from streaming.errors import RecordError
from streaming.source import Envelope, TopicPartition

Place = tuple[TopicPartition, int]
Letter = tuple[Envelope, RecordError]
Keyed = tuple[SpooledRow, RowKey]
T = TypeVar("T")

_PLAIN = "a"
"""A prompt that any sound extractor takes."""


class Observer:
    """Submits what the router has not counted yet, and asks about rows that were read again.

    `put_letters` keeps unusable rows durably; `block_rows` are submitted at once; `logs` gives the identity of each
    topic's log.
    """

    def __init__(
        self,
        spool: Spool,
        extractor: FeatureExtractor,
        router: SumsPort,
        following: Following,
        put_letters: Callable[[Sequence[Letter]], None],
        quiet: Quiet,
        logs: Callable[[], Mapping[str, str]],
        *,
        block_rows: int,
    ) -> None:
        self._spool, self._router, self._following = spool, router, following
        self._put_letters, self._quiet, self._logs = put_letters, quiet, logs
        self._block_rows, self._extractor = block_rows, extractor
        self._at_once = block_rows
        """Fewer than `block_rows` while the router refuses more."""
        self.duplicates = 0

    def observe_once(self) -> int:
        """Ask about or submit one block; returns the rows dealt with (0 when there is nothing to do yet)."""
        view = self._following.view()
        self._following.look()
        if view.background not in (None, general.name()):
            self._give_background()
        return self._confirm() or self._observe()

    def _give_background(self) -> None:
        """Give the router what belongs to no domain: it has none since it began, or that of another version of this."""
        labels = [BACKGROUND] * len(general.prompts())
        statistics = Statistics.of(self._extractor.general(), labels, self._extractor.fingerprint)
        self._router.take_background(Background(general.name(), statistics))
        self._following.ask_again()

    def _confirm(self) -> int:
        """Keep of the rows that were read again those that the router has counted at this very place."""
        observed = self._following.observed
        for partition in self._spool.partitions():
            first, end = self._following.confirmed(partition), observed.get(partition, 0)
            if first >= end:
                continue
            rows = self._spool.recall(partition, first, end, self._block_rows)
            fates = self._router.fates([_key(row) for row in rows])
            if not {"new", "lost"}.isdisjoint(fates):
                # Started again since the view was taken: it stands further back, and these rows are still to come.
                self._following.ask_again()
                return 0
            self._turned(rows, fates)
            self._discard_gone(rows, fates)
            if len(rows) == self._block_rows:
                end = rows[-1].offset + 1
            self._following.confirm(partition, first, end)
            if rows:
                return len(rows)
        return 0

    def _observe(self) -> int:
        block = self._spool.block(self._following.observed, self._at_once)
        if block is None:
            return 0
        try:
            keyed, new = self._sifted([(row, _key(row)) for row in block.rows])
            keyed, statistics, held_out = self._with_features(keyed, new)
            keys = tuple([key for _, key in keyed])
            receipt = self._asked(
                lambda: self._router.observe(
                    Observation(block.spans, keys, block.markers, statistics, held_out, dict(self._logs()))
                )
            )
        except _Refused as refused:
            self._narrow(block, refused.error)
            return 0
        self._at_once = min(2 * self._at_once, self._block_rows)
        self._following.note(receipt.observed)
        if not receipt.applied:
            self._following.ask_again()
            return 0
        for partition, (first, end) in block.spans.items():
            self._following.confirm(partition, first, end)
        self._quiet.stir(key.domain for key in keys)
        return len(keys) or len(block.markers)

    # -- what the router refuses --------------------------------------------------------------------------------------

    def _asked(self, question: Callable[[], T]) -> T:
        """Return the router's answer; what it says no to is `_Refused`, whosever fault that may be."""
        try:
            return question()
        except OSError:
            raise
        except Exception as error:
            raise _Refused(error) from error

    def _narrow(self, block: Block, error: Exception) -> None:
        """Find the row for which the router refuses a block: with half of it next time, and alone it is a dead letter.

        A router that refuses the empty block as well, as one does that is away, has nothing against the row: raises.
        """
        empty = {partition: (first, first) for partition, (first, _) in block.spans.items()}
        self._router.observe(Observation(empty, logs=dict(self._logs())))
        if self._at_once > 1:
            self._at_once = max(self._at_once // 2, 1)
        elif block.rows:
            row = block.rows[0]
            self._put_letters([(_envelope(row), RecordError("bad-record", _said(row, "the router refuses it", error)))])
            self._spool.discard([_place(row)])
        else:
            raise error
        # It may have gone back to what it had committed.
        self._following.ask_again()

    # -- rows ---------------------------------------------------------------------------------------------------------

    def _without_repeats(self, keyed: list[Keyed]) -> list[Keyed]:
        """Return the first row of each example among rows that are to be kept: of one that goes, what comes after it is
        no repeat."""
        if len({key.digest for _, key in keyed}) == len(keyed):
            return keyed
        kept: dict[bytes, Keyed] = {}
        for each in keyed:
            kept.setdefault(each[1].digest, each)
        self._discard([row for row, key in keyed if kept[key.digest][0] is not row])
        return list(kept.values())

    def _sifted(self, keyed: list[Keyed]) -> tuple[list[Keyed], set[int] | None]:
        """Return the rows to be kept, of a block, and the offsets of those among them that are to be counted; None
        where all are."""
        fates = self._asked(lambda: self._router.fates([key for _, key in keyed]))
        if set(fates) <= {"new"}:
            return self._without_repeats(keyed), None
        rows = self._turned([row for row, _ in keyed], fates)
        kept = [
            (row, key if fate != "turned" else _key(row))
            for row, (_, key), fate in zip(rows, keyed, fates, strict=True)
            if fate in ("new", "lost", "turned")
        ]
        new = {row.offset for row, fate in zip(rows, fates, strict=True) if fate == "new"}
        self._discard_gone(rows, fates)
        return self._without_repeats(kept), new

    def _turned(self, rows: Sequence[SpooledRow], fates: Sequence[Fate]) -> list[SpooledRow]:
        """Return the rows, each on the side of the exam on which it was counted: in the spool it stands there too."""
        self._spool.turn([_place(row) for row, fate in zip(rows, fates, strict=True) if fate == "turned"])
        return [
            row._replace(held_out=not row.held_out) if fate == "turned" else row
            for row, fate in zip(rows, fates, strict=True)
        ]

    def _discard_gone(self, rows: Sequence[SpooledRow], fates: Sequence[Fate]) -> None:
        """Drop rows for what the ledger says of them, once the spool is led after the snapshot by which it does."""
        gone = [row for row, fate in zip(rows, fates, strict=True) if fate == "gone"]
        if gone:
            self._following.renew()
        self._discard(gone)

    def _discard(self, rows: Sequence[SpooledRow]) -> None:
        if rows:
            self._spool.discard(map(_place, rows))
            self.duplicates += len(rows)

    def _with_features(
        self, keyed: list[Keyed], new: set[int] | None
    ) -> tuple[list[Keyed], Statistics | None, HeldOutRows | None]:
        """Return the usable rows, the statistics of the new ones to be trained on, and the features of the new ones
        that are held out; None where there are none.

        The others are dead letters when this returns, and then deleted: put twice after a crash, one is listed once.
        """
        counted = keyed if new is None else [each for each in keyed if each[1].offset in new]
        if not counted:
            return keyed, None, None
        features, refused = _extracted([row for row, _ in counted], self._extractor)
        if refused:
            # Whose fault is it? An extractor that refuses any prompt must not empty the stream into the dead letters.
            if not usable_rows(self._extractor.extract([_PLAIN])).all():
                raise next(iter(refused.values()))
            bad = {counted[at][0]: why for at, why in refused.items()}
            self._put_letters([(_envelope(row), _unusable(row, why)) for row, why in bad.items()])
            self._spool.discard([_place(row) for row in bad])
            keyed = [each for each in keyed if each[0] not in bad]
            counted = [each for each in counted if each[0] not in bad]
        exam = np.array([key.held_out for _, key in counted], dtype=bool)
        domains = [key.domain for _, key in counted if not key.held_out]
        digests = tuple([key.digest for _, key in counted if key.held_out])
        fingerprint = self._extractor.fingerprint
        return (
            keyed,
            Statistics.of(features[~exam], domains, fingerprint) if domains else None,
            HeldOutRows(fingerprint, digests, features[exam].astype(np.float32)) if digests else None,
        )


class _Refused(Exception):
    """What the router has raised at rows, and not because it is away."""

    def __init__(self, error: Exception) -> None:
        super().__init__(str(error))
        self.error = error


def _place(row: SpooledRow) -> Place:
    return row.partition, row.offset


def _key(row: SpooledRow) -> RowKey:
    partition, offset, domain, record_id, held_out, *_ = row
    return RowKey(domain, example_digest(domain, record_id), partition, offset, held_out)


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
    usable = usable_rows(features)
    bad = {int(at): ValueError("its features are not finite or absurdly large") for at in np.flatnonzero(~usable)}
    return features[usable], dict(bad)


def _unusable(row: SpooledRow, error: Exception) -> RecordError:
    return RecordError("bad-record", _said(row, "no features can be had of it", error))


def _said(row: SpooledRow, what: str, error: Exception) -> str:
    return f"record {row.record_id!r}: {what}: {in_words(error)}"


def _envelope(row: SpooledRow) -> Envelope:
    """Return the row as a record in its old place: the sender's own bytes are not kept that long.

    Its prompt is the rendered one, as `meta` says; who sends it again sends the sender's.
    """
    record = {
        "id": row.record_id,
        "domain": row.domain,
        "prompt": row.prompt,
        "completion": row.completion,
        "split": "test" if row.held_out else "train",
        "meta": {"prompt": "rendered"},
    }
    value = json.dumps(record, ensure_ascii=False).encode()
    headers = (("content-type", b"application/json"),)
    return Envelope(*row.partition, row.offset, row.record_id.encode(), value, headers, 0)
