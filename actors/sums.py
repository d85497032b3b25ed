"""What the router knows of features: the sums of what is learned, and the held-out rows that it is calibrated by.

Both stand under the labels of `actors.labels`, and follow the ledger: whatever has become of a domain's seals and
markers, `follow` brings the labels to what the ledger says, so that no event has to be told twice. A copy may be
changed, or dropped, while this one stays as it is. Does not know of commits, of manifests' numbers or of files.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from actors.errors import ActorError
from actors.labels import after_label, by_domain, columns, domain_of, open_label, sealed_label
from actors.ledger import Ledger
from actors.observation import Background, Fate, HeldOutRows, Observation, RowKey, Seal
from learning.abstention import Abstention
from learning.errors import FingerprintMismatch
from learning.generations import MomentsStore
from learning.heads import BACKGROUND
from learning.reservoir import Reservoir
from learning.rls import StreamingRidge
from learning.router_options import RouterOptions
from learning.served_router import ServedRouter
from learning.statistics import Statistics
from registry.manifest import Route, column
from streaming.source import TopicPartition

_CALIBRATION_ROWS = 1024
"""Held-out rows, over all domains, that a threshold is set by: the share kept is right to about 0.7 percent."""

Ends = Mapping[tuple[str, TopicPartition], int]


class RouterSums:
    """Sums and held-out rows by label, with their files in `store`; the first features fix the fingerprint."""

    def __init__(self, options: RouterOptions, store: MomentsStore) -> None:
        self._options, self._store = options, store
        self.ridge: StreamingRidge | None = None
        self._held_out: Reservoir | None = None
        self.background = ""
        """Digest of the texts that are summed as belonging to no domain; empty where there are none."""

    def copy(self) -> RouterSums:
        """Return sums that may be changed while these stay as they are, for as long as only one of them goes on."""
        other = RouterSums(self._options, self._store)
        other.ridge = self.ridge.copy() if self.ridge is not None else None
        other._held_out = self._held_out.copy() if self._held_out is not None else None
        other.background = self.background
        return other

    def counts(self) -> dict[str, int]:
        """Return the number of rows in the sums of each domain."""
        found: dict[str, int] = {}
        for label, count in self._counts().items():
            if label != BACKGROUND:
                found[domain_of(label)] = found.get(domain_of(label), 0) + count
        return dict(sorted(found.items()))

    def segment_counts(self) -> dict[str, int]:
        """Return the number of rows that each segment of each domain has learned, by column."""
        return {label: count for label, count in self._counts().items() if "+" not in label and label != BACKGROUND}

    def _counts(self) -> dict[str, int]:
        return self.ridge.counts if self.ridge is not None else {}

    # -- counting -----------------------------------------------------------------------------------------------------

    def take(self, observation: Observation, fates: Sequence[Fate], ends: Ends) -> None:
        """Add the rows of an observation that are new; `ends` says where domains are marked to end then.

        Raises `LearningError` for features of another make, or that are not usable; no sum has changed then.
        """
        new = [row for row, fate in zip(observation.rows, fates, strict=True) if fate == "new"]
        statistics, held_out = observation.statistics, observation.held_out
        self._check_make(each for each in (statistics, held_out) if each is not None)
        # Held-out rows first: where the others are refused they come again, and are kept once all the same.
        if held_out is not None and self._options.calibration_rows:
            labels = [_label(row, ends) for row in new if row.held_out]
            kept = self._held_out or Reservoir(
                held_out.features_ND.shape[1],
                self._options.calibration_rows,
                fingerprint=held_out.fingerprint,
                store=self._store,
            )
            kept.add(held_out.features_ND, labels, held_out.digests)
            # Only now, as with the sums: what is refused says nothing of the next.
            self._held_out, kept.fingerprint = kept, held_out.fingerprint
        if statistics is not None:
            self._absorb(_labelled(statistics, [_label(row, ends) for row in new if not row.held_out]))
        for marker in observation.markers:
            # What was counted behind an earlier marker lies before this one.
            self._move(after_label(marker.domain, marker.partition), open_label(marker.domain))

    def take_background(self, background: Background) -> None:
        """Sum what belongs to no domain, in the place of what was summed so before; raises as `take`."""
        if self.background == background.digest:
            return
        self._check_make([background.statistics])
        if BACKGROUND in self._counts() and self.ridge is not None:
            self.ridge.remove(BACKGROUND)
        self.background = ""
        self._absorb(background.statistics)
        self.background = background.digest

    def _check_make(self, features: Iterable[Statistics | HeldOutRows]) -> None:
        fingerprints = {each.fingerprint for each in features}
        if self.ridge is not None:
            fingerprints.add(self.ridge.fingerprint)
        if self._held_out is not None and self._held_out.fingerprint:
            fingerprints.add(self._held_out.fingerprint)
        if len(fingerprints) > 1:
            raise FingerprintMismatch(
                f"observing features: expected one fingerprint, got {sorted(fingerprints)}; base, layers, pooling, "
                "template, tokenizer, expansion and standardisation must be the same everywhere"
            )

    def _absorb(self, statistics: Statistics) -> None:
        ridge = self.ridge
        if ridge is None:
            ridge = StreamingRidge(
                statistics.feature_dim,
                self._options.ridge,
                head=self._options.head,
                fingerprint=statistics.fingerprint,
                store=self._store,
            )
        ridge.absorb(statistics)
        # Only now: sums that were begun for what is refused would refuse features of another make.
        self.ridge = ridge

    # -- after the ledger ---------------------------------------------------------------------------------------------

    def seal(self, domain: str, seal: Seal, ledger: Ledger) -> None:
        """Set apart the rows that a version is made of, as the ledger has just sealed them."""
        markers = ledger.entries[domain].markers
        self._move(open_label(domain), sealed_label(domain))
        for partition, end in seal.until.items():
            if partition not in markers or end > markers[partition] + 1:
                self._move(after_label(domain, partition), sealed_label(domain))

    def settle(self, domain: str, segment: int) -> None:
        """Count what was sealed of a domain among the rows of a segment."""
        self._move(sealed_label(domain), column(domain, segment))

    def follow(self, ledger: Ledger) -> None:
        """Open what is sealed no more, and what lies behind markers that are no more."""
        for domain, labels in by_domain(label for label in self._labels() if "+" in label).items():
            entry = ledger.entries.get(domain)
            keeps = {open_label(domain), *(after_label(domain, p) for p in (entry.markers if entry else {}))}
            if entry is not None and entry.seal is not None:
                keeps.add(sealed_label(domain))
            for label in labels:
                if label not in keeps:
                    self._move(label, open_label(domain))

    def remove(self, domain: str) -> None:
        """Take everything of a domain out; the rest is as if it had never been there."""
        for label in [label for label in self._labels() if domain_of(label) == domain]:
            for part in (self.ridge, self._held_out):
                if part is not None and label in part.counts:
                    part.remove(label)

    def _labels(self) -> set[str]:
        held_out = self._held_out.counts if self._held_out is not None else {}
        return ({*self._counts(), *held_out}) - {BACKGROUND}

    def _move(self, label: str, into: str) -> None:
        for part in (self.ridge, self._held_out):
            if part is not None and label in part.counts:
                part.relabel(label, into)

    # -- what is published --------------------------------------------------------------------------------------------

    def columns(self, routes: Mapping[str, Route]) -> dict[str, list[str]]:
        """Return the router's columns for what is in service, with the labels whose rows are theirs."""
        return columns(routes, self._counts())

    def served(self, routes: Mapping[str, Route]) -> ServedRouter | None:
        """Return how prompts are routed to what is in service, with a threshold by its held-out rows; None where
        nothing is known of any of it. Raises `SolveError` where there are no weights."""
        of, ridge, kind = self.columns(routes), self.ridge, self._options.abstention
        if ridge is None or not of:
            return None
        labels = [label for own in of.values() for label in own]
        rows_ND = np.empty((0, ridge.feature_dim), np.float32)
        if self._held_out is not None:
            rows_ND, _ = self._held_out.choose(labels, _CALIBRATION_ROWS)
        if self.background:
            of[BACKGROUND] = [BACKGROUND]
        weights = ridge.weights(of)
        abstention = Abstention.calibrated(
            kind,
            self._options.keep,
            weights,
            rows_ND,
            factor=ridge.factor() if kind in ("leverage", "both") else None,
            distance=ridge.distance(of) if kind == "mahalanobis" else None,
        )
        return ServedRouter(weights, abstention)

    # -- in a store ---------------------------------------------------------------------------------------------------

    def save(self) -> dict[str, Any]:
        """Put what is new into the store, and return a JSON-able state that names everything."""
        return {
            "ridge": self.ridge.seal() if self.ridge is not None else None,
            "held_out": self._held_out.seal() if self._held_out is not None else None,
            "background": self.background,
        }

    @staticmethod
    def restore(state: Mapping[str, Any], store: MomentsStore, options: RouterOptions) -> RouterSums:
        """The inverse of `save`; the options may be others than those at the time. Raises `LearningError` on damage."""
        sums = RouterSums(options, store)
        if state["ridge"] is not None:
            sums.ridge = StreamingRidge.restore(state["ridge"], store, ridge=options.ridge, head=options.head)
            sums.background = str(state["background"])
        if state["held_out"] is not None and options.calibration_rows:
            sums._held_out = Reservoir.restore(state["held_out"], store, rows=options.calibration_rows)
        if sums.background and not options.background and sums.ridge is not None:
            sums.ridge.remove(BACKGROUND)
            sums.background = ""
        return sums

    def segments(self) -> frozenset[str]:
        """Return the names in the store of everything that a state saved now refers to."""
        parts = [part.segments() for part in (self.ridge, self._held_out) if part is not None]
        return frozenset[str]().union(*parts)

    def tidy(self) -> None:
        """Join what lies in the store in many pieces: whole or not at all."""
        if self.ridge is not None:
            self.ridge.tidy()


def _label(row: RowKey, ends: Ends) -> str:
    end = ends.get((row.domain, row.partition))
    return open_label(row.domain) if end is None or row.offset <= end else after_label(row.domain, row.partition)


def _labelled(statistics: Statistics, labels: Sequence[str]) -> Statistics:
    """Return the statistics under these labels of its rows, in order.

    Raises `ActorError` where a domain's sums would have to be told apart.
    """
    counts = {label: labels.count(label) for label in sorted(set(labels))}
    if statistics.sums is None:
        return replace(statistics, domains=tuple(counts), counts=counts, row_domains=tuple(labels))
    names = {domain_of(label): label for label in counts}
    if len(names) != len(counts):
        raise ActorError(f"an observation sums rows of {sorted(names)} from before and behind a marker: cut it there")
    sums = {names[domain]: part for domain, part in statistics.sums.items()}
    return replace(statistics, domains=tuple(sorted(sums)), counts=counts, sums=sums)
