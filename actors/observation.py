"""What ingest and the router tell each other about rows: what becomes of each is decided by the router alone.

An observation claims a span of offsets of each partition it covers. The router applies it only when every span starts
where it stands itself and every row in it has the fate it was submitted for: that makes the sums exact under
duplication, retry and crash, although adding to a Gram matrix is not idempotent. This module knows no storage and no
transport.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from hashlib import blake2b
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from learning.statistics import Statistics
from streaming.source import TopicPartition

Watermarks = Mapping[TopicPartition, int]
"""An offset by partition, exclusive: all below it is meant."""
Int64 = NDArray[np.int64]
"""Offsets in order, shape (rows,)."""

Fate = Literal["new", "counted", "lost", "turned", "gone"]
"""What the ledger says of a row. `new`: not seen, to be counted and kept. `counted`: counted at this very place and not
settled, to be kept. `lost`: counted, but its text could be read nowhere; to be kept, not counted again. `turned`: one
of these two, but counted on the other side of the exam; to be kept on that side. `gone`: to be dropped, as it is
settled, removed, or counted at another place."""


class RowKey(NamedTuple):
    """By what the router knows a row: never its text."""

    domain: str
    digest: bytes
    """`example_digest` of domain and id, 16 bytes."""
    partition: TopicPartition
    offset: int
    held_out: bool


class Marker(NamedTuple):
    """An end-of-domain marker and where it stood in the stream."""

    partition: TopicPartition
    offset: int
    domain: str


def example_digest(domain: str, record_id: str) -> bytes:
    """Return the 16 bytes by which an example is known: same domain and id, same example."""
    hashed = _begun(domain).copy()
    hashed.update(record_id.encode())
    return hashed.digest()


@lru_cache(4_096)
def _begun(domain: str) -> blake2b:
    return blake2b(f"{domain}\0".encode(), digest_size=16)


@dataclass(frozen=True, eq=False)
class HeldOutRows:
    """Features float32[n, d] of held-out rows, which are in no sums, by the rows' digests."""

    fingerprint: str
    digests: tuple[bytes, ...]
    features_ND: NDArray[np.float32]  # noqa: N815 - shape suffix


@dataclass(frozen=True, eq=False)
class Background:
    """The sums of texts that belong to no domain, under the label `learning.heads.BACKGROUND`; `digest` names them."""

    digest: str
    statistics: Statistics

    @property
    def fingerprint(self) -> str:
        """Of the features."""
        return self.statistics.fingerprint


@dataclass(frozen=True)
class Observation:
    """A block of the stream, turned into sums.

    `spans` maps each covered partition to `(start, end)`, end exclusive. `rows` are the rows to be kept, held-out ones
    included, each with its fate `new` or `lost`; `statistics` holds the training rows among them that are new, in their
    order, and `held_out` the others that are new; None where there are none. `logs` is the identity of each topic's
    log, where its broker gives one.
    """

    spans: Mapping[TopicPartition, tuple[int, int]]
    rows: tuple[RowKey, ...] = ()
    markers: tuple[Marker, ...] = ()
    statistics: Statistics | None = None
    held_out: HeldOutRows | None = None
    logs: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Receipt:
    """The router's answer: whether it applied the block, and where it stands (the next offset to be counted).

    When `applied` is false, either a span did not start there, or the fates have changed since they were asked for: cut
    the block anew.
    """

    applied: bool
    observed: Watermarks


class WriterRun(NamedTuple):
    """One run of the router over a home: a random name, and the number of the first snapshot it committed."""

    name: str
    first: int


@dataclass(frozen=True)
class LedgerView:
    """What the router tells ingest: where it stands, and what the snapshot in force says of the spools' rows."""

    lineage: str
    """Random, once a home."""
    run: str
    """The run of the router that answers; it may not have committed anything yet."""
    runs: tuple[WriterRun, ...]
    """The runs that led to the snapshot in force, in order."""
    snapshot: int
    """Number of the snapshot in force, 0 before the first."""
    logs: Mapping[str, str]
    """Identity of each topic's log."""
    observed: Watermarks
    """Next offset to be counted, by the router's memory; a partition that is absent stands at 0."""
    durable: Watermarks
    """The same by the snapshot in force: a restart of the router goes back there."""
    low: Watermarks
    """By the snapshot in force, all below is settled: reading begins there where a spool has nothing."""
    fences: Mapping[str, Watermarks] | None
    """By domain, by the snapshot in force: nothing of the domain below is ever taken again. None: as at the snapshot
    that the caller said it knows."""
    removed: frozenset[str] = frozenset()
    """Domains that were ever removed: what spools drop of them has to be gone from their files as well."""
    background: str | None = None
    """Digest of the texts that are summed as belonging to no domain; empty where they are still to come, None where
    none are asked for."""
    taken: Mapping[str, int] = field(default_factory=dict)
    """By topic, how many times another log was accepted under its name: what was read before that belongs to none."""

    def follows(self, lineage: str, run: str, snapshot: int) -> bool:
        """Tell whether the snapshot in force is that snapshot of that run, or descends from it."""
        if lineage != self.lineage:
            return False
        names = [each.name for each in self.runs]
        if run not in names:
            return False
        place = names.index(run)
        end = self.runs[place + 1].first - 1 if place + 1 < len(self.runs) else self.snapshot
        return snapshot <= end


@dataclass(frozen=True)
class Seal:
    """The rows that a version of a domain is trained on: all counted ones below `until` that are not settled."""

    version: int
    until: Watermarks
    train: int
    held_out: int


@dataclass(frozen=True)
class Loss:
    """Offsets `first` to `last` (inclusive) of a partition, some or all of which are in no spool nor to be read again.

    `rows` of them were counted and can't be trained on; where `rows` is 0, they were never read.
    """

    partition: TopicPartition
    first: int
    last: int
    rows: int


@dataclass(frozen=True)
class OpenDomain:
    """What the ledger holds of one domain beside its sums: what is not settled, by counts."""

    train: int = 0
    held_out: int = 0
    fresh: int = 0
    """Rows, train and held out, that no rejected version has been trained on; sealed ones are not among them."""
    closable: int = 0
    """Of the fresh ones, rows to train on that lie before the markers: in a partition without a marker, all of them."""
    markers: Mapping[TopicPartition, int] = field(default_factory=dict)
    """Where its end was marked, by the last marker of each partition that lies beyond what was sealed or tried."""
    seal: Seal | None = None
    lost: tuple[Loss, ...] = ()
