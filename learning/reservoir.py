"""Held-out rows of each label, few enough to keep and chosen fairly: what abstention is calibrated on.

Of each label the rows with the k smallest digests are kept. A digest is 16 bytes that name a row and say nothing of its
label, spread evenly as hashes are; so those kept are a uniform sample of all that came (bottom-k sampling; Cohen and
Kaplan, "Summarizing Data using Bottom-k Sketches", PODC 2007), whatever the order, and the k smallest of two samples
are those of all rows of both. A row that comes again is the same row.

With a store a label's rows lie there as one entry and their digests as another, written when they have changed; rows
are read where they are chosen or replaced. Samples are never changed, so that a copy costs nothing.

Does not know what rows are of, or what is calibrated.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from learning.errors import FingerprintMismatch, LearningError, UnseenDomain
from learning.generations import MomentsStore
from learning.statistics import checked_rows

DIGEST_BYTES = 16

Float32 = NDArray[np.float32]
Digests = NDArray[np.uint8]


@dataclass(frozen=True, eq=False)
class Sample:
    """One label's rows, the smallest digest first."""

    digests_NB: Digests  # noqa: N815 - shape suffix
    """uint8[n, 16]."""
    rows_ND: Float32 | None  # noqa: N815 - shape suffix
    """None where they lie in the store."""
    names: tuple[str, str] | None = None
    """Of digests and rows in the store, once they lie there."""


class Reservoir:
    """At most `rows` rows of dimension `feature_dim` for each label; 4 bytes x rows x d, and in memory till sealed.

    `fingerprint` names the features, empty where nobody has said of what make they are.
    """

    def __init__(
        self, feature_dim: int, rows: int, *, fingerprint: str = "", store: MomentsStore | None = None
    ) -> None:
        if feature_dim < 1 or rows < 1:
            raise LearningError(f"reservoir: expected a dimension and rows of at least 1, got {feature_dim} and {rows}")
        self.feature_dim = feature_dim
        self.rows = rows
        self.fingerprint = fingerprint
        self._store = store
        self._samples: dict[str, Sample] = {}
        self._leading: dict[str, tuple[str, Float32]] = {}
        """What was last chosen of labels in the store, under the name of their rows, so that it is not read again."""

    @property
    def counts(self) -> dict[str, int]:
        """Rows kept of each label."""
        return {label: len(self._samples[label].digests_NB) for label in sorted(self._samples)}

    def add(self, features: ArrayLike, labels: Sequence[str], digests: Sequence[bytes]) -> None:
        """Offers rows features[n, d], kept as float32, with their n labels and digests of 16 bytes.

        Raises `UnusableFeatures`, which names the rows, or `LearningError` on unlike shapes; nothing is taken then.
        """
        rows_ND = checked_rows(features, labels).astype(np.float32)
        if rows_ND.shape[1] != self.feature_dim:
            raise LearningError(f"held-out rows: expected dimension {self.feature_dim}, got {rows_ND.shape[1]}")
        if len(digests) != len(rows_ND) or any(len(digest) != DIGEST_BYTES for digest in digests):
            raise LearningError(f"held-out rows: expected {len(rows_ND)} digests of {DIGEST_BYTES} bytes")
        digests_NB = np.frombuffer(b"".join(digests), dtype=np.uint8).reshape(-1, DIGEST_BYTES)
        of_label = np.asarray(labels)
        samples = dict(self._samples)
        for label in sorted(set(labels)):
            mine = of_label == label
            samples[label] = self._joined(samples.get(label), Sample(digests_NB[mine], rows_ND[mine]))
        self._samples = samples

    def merge(self, other: Reservoir) -> None:
        """Offers all rows of another reservoir. Refuses another dimension, number of rows or fingerprint."""
        mine, theirs = (self.feature_dim, self.rows), (other.feature_dim, other.rows)
        if mine != theirs:
            raise LearningError(f"merging reservoirs: expected dimension and rows {mine}, got {theirs}")
        if other.fingerprint != self.fingerprint:
            raise FingerprintMismatch(
                f"merging reservoirs: expected fingerprint {self.fingerprint!r}, got {other.fingerprint!r}"
            )
        samples = dict(self._samples)
        for label, sample in other._samples.items():
            samples[label] = self._joined(samples.get(label), Sample(sample.digests_NB, other._read(sample)))
        self._samples = samples

    def remove(self, label: str) -> None:
        """Takes a label's rows out. Raises `UnseenDomain` for a label without rows."""
        self._check_seen(label, "removing")
        self._samples = {name: sample for name, sample in self._samples.items() if name != label}
        self._leading.pop(label, None)

    def relabel(self, label: str, into: str) -> None:
        """Offers the rows of `label` to `into` in its place; raises as `remove`, `LearningError` for no other label."""
        self._check_seen(label, "relabelling")
        if not into or into == label:
            raise LearningError(f"relabelling {label!r}: expected another label to move its rows to, got {into!r}")
        joined = self._joined(self._samples.get(into), self._samples[label])
        self.remove(label)
        self._samples[into] = joined

    def copy(self) -> Reservoir:
        """One with the same rows; what becomes of either is nothing to the other."""
        other = Reservoir(self.feature_dim, self.rows, fingerprint=self.fingerprint, store=self._store)
        other._samples, other._leading = dict(self._samples), dict(self._leading)
        return other

    def choose(self, labels: Sequence[str], total: int) -> tuple[Float32, tuple[str, ...]]:
        """At most `total` rows float32[n, d] of these labels, and the label of each; those of the smallest digests.

        Every label gives up to total // len(labels) of its rows, one where that is none; labels without rows none.
        """
        held = sorted(set(labels) & set(self._samples))
        share = max(1, total // max(1, len(set(labels))))
        parts = {label: self._first(label, share) for label in held}
        self._leading = {label: kept for label, kept in self._leading.items() if label in parts}
        rows_ND = np.concatenate([np.empty((0, self.feature_dim), np.float32), *parts.values()])
        names = tuple(label for label in held for _ in range(len(parts[label])))
        if len(rows_ND) > total:
            digests = [self._samples[label].digests_NB[: len(parts[label])] for label in held]
            places = np.sort(_smallest(np.concatenate(digests), total, unique=False))
            rows_ND, names = rows_ND[places], tuple(names[place] for place in places)
        return rows_ND, names

    # -- in a store ---------------------------------------------------------------------------------------------------

    def seal(self) -> dict[str, Any]:
        """Puts what has changed into the store, frees the rows' memory, and returns a JSON-able state that names all.

        Raises `LearningError` without a store.
        """
        store = self._stored
        for label, sample in self._samples.items():
            if sample.names is None:
                names = store.put({"digests": sample.digests_NB}), store.put({"rows": self._read(sample)})
                self._samples[label] = Sample(sample.digests_NB, None, names)
        labels = {label: list(self._samples[label].names or ()) for label in sorted(self._samples)}
        return {
            "feature_dim": self.feature_dim,
            "rows": self.rows,
            "fingerprint": self.fingerprint,
            "labels": labels,
        }

    @staticmethod
    def restore(state: Mapping[str, Any], store: MomentsStore, *, rows: int | None = None) -> Reservoir:
        """The inverse of `seal`, from the same store, of which it reads the digests.

        `rows`, where given, takes the place of what was written; more are kept of what comes from then on. Raises
        `LearningError` on damaged state.
        """
        try:
            reservoir = Reservoir(
                state["feature_dim"],
                state["rows"] if rows is None else rows,
                # Earlier writers did not say it.
                fingerprint=str(state.get("fingerprint", "")),
                store=store,
            )
            for label, (digests, kept) in state["labels"].items():
                digests_NB = np.array(store.get(digests)["digests"], dtype=np.uint8)
                if digests_NB.ndim != 2 or digests_NB.shape[1] != DIGEST_BYTES:
                    raise ValueError(f"digests of shape {digests_NB.shape} for {label!r}")
                reservoir._samples[label] = Sample(digests_NB[: reservoir.rows], None, (digests, kept))
        except (KeyError, ValueError, TypeError) as error:
            raise LearningError(
                f"restoring held-out rows: expected a state that `seal` returned, got {type(error).__name__}: {error}; "
                "the snapshot is damaged or of another kind"
            ) from error
        return reservoir

    def segments(self) -> frozenset[str]:
        """Names in the store of everything that a state sealed now refers to."""
        return frozenset(name for sample in self._samples.values() for name in sample.names or ())

    # -- inside -------------------------------------------------------------------------------------------------------

    def _joined(self, mine: Sample | None, offered: Sample) -> Sample:
        """The smallest digests of both; a sample that nothing is added to stays the same, and is not read."""
        held = mine.digests_NB if mine is not None else np.empty((0, DIGEST_BYTES), np.uint8)
        places = _smallest(np.concatenate([held, offered.digests_NB]), self.rows)
        if mine is not None and not np.any(places >= len(held)):
            return mine
        if mine is None and len(places) == len(offered.digests_NB) and np.all(np.diff(places) > 0):
            return offered
        held_ND = self._read(mine) if mine is not None else np.empty((0, self.feature_dim), np.float32)
        digests_NB = np.concatenate([held, offered.digests_NB])[places]
        return Sample(digests_NB, np.concatenate([held_ND, self._read(offered)])[places])

    def _first(self, label: str, share: int) -> Float32:
        sample = self._samples[label]
        share = min(share, len(sample.digests_NB))
        if sample.rows_ND is not None or sample.names is None:
            return self._read(sample)[:share]
        name, rows_ND = self._leading.get(label, ("", np.empty((0, self.feature_dim), np.float32)))
        if name != sample.names[1] or len(rows_ND) < share:
            rows_ND = self._read(sample)[:share].copy()
            self._leading[label] = sample.names[1], rows_ND
        return rows_ND[:share]

    def _read(self, sample: Sample) -> Float32:
        if sample.rows_ND is not None:
            return sample.rows_ND
        if sample.names is None:
            raise LearningError("reading held-out rows: they are neither in memory nor in the store")
        rows_ND = np.asarray(self._stored.get(sample.names[1])["rows"], dtype=np.float32)
        return rows_ND[: len(sample.digests_NB)]

    def _check_seen(self, label: str, doing: str) -> None:
        if label not in self._samples:
            raise UnseenDomain(f"{doing} held-out rows of {label!r}: the reservoir knows {sorted(self._samples)}")

    @property
    def _stored(self) -> MomentsStore:
        if self._store is None:
            raise LearningError("sealing a reservoir: expected a store to keep rows in; give it one when it is made")
        return self._store


def _smallest(digests_NB: Digests, count: int, *, unique: bool = True) -> NDArray[np.intp]:
    """Places of the `count` smallest digests, rising; of equal ones the first, or all where they need not differ."""
    words_NW = np.ascontiguousarray(digests_NB).view(">u8")
    order_N = np.lexsort((words_NW[:, 1], words_NW[:, 0]))
    if unique and len(order_N):
        sorted_NW = words_NW[order_N]
        differs_N = np.concatenate([[True], np.any(sorted_NW[1:] != sorted_NW[:-1], axis=1)])
        order_N = order_N[differs_N]
    places: NDArray[np.intp] = order_N[:count]
    return places
