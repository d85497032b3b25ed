"""What a worker sends to the router about a block of examples: their features or the features' sums.

Rows cost n*d numbers, sums cost d(d+1)/2 + d per domain; `Statistics.of` takes whichever is fewer. Does not know how
either is used, nor where the rows came from.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from learning.container import pack, unpack
from learning.errors import LearningError
from learning.moments import Sums
from learning.symmetric import Float64, packed_length


@dataclass(frozen=True, eq=False)
class Statistics:
    """Features of labelled examples, as rows or as per-domain sums; exactly one of `rows_ND` and `sums` is set."""

    fingerprint: str
    """Fingerprint of the features; a router with another one refuses the block."""
    feature_dim: int
    domains: tuple[str, ...]
    """The domains present, sorted."""
    counts: Mapping[str, int]
    """Rows of each domain."""
    rows_ND: Float64 | None  # noqa: N815 - shape suffix
    row_domains: tuple[str, ...]
    """The domain of each row; empty where sums are held."""
    sums: Mapping[str, Sums] | None

    @staticmethod
    def of(features: ArrayLike, domains: Sequence[str], fingerprint: str) -> Statistics:
        """From features float64[n, d] and the n rows' domains, in the smaller form.

        Raises `LearningError` when shapes disagree or a feature is not finite.
        """
        rows_ND = checked_rows(features, domains)
        dim = rows_ND.shape[1]
        present = tuple(sorted(set(domains)))
        if rows_ND.size <= len(present) * (packed_length(dim) + dim):
            return _of_rows(rows_ND, tuple(domains), fingerprint)
        labels = np.asarray(domains)
        sums = {domain: Sums.of(rows_ND[labels == domain]) for domain in present}
        return _of_sums(sums, dim, fingerprint)

    @property
    def rows(self) -> int:
        """How many examples these are."""
        return sum(self.counts.values())

    def without(self, indices: Collection[int]) -> Statistics:
        """These statistics less the rows at `indices`. Raises `LearningError` where sums are held."""
        if self.rows_ND is None:
            raise LearningError(
                f"dropping {len(indices)} of {self.rows} examples: this block holds sums and single rows can't be "
                "taken out; make smaller blocks"
            )
        outside = [index for index in indices if not 0 <= index < len(self.row_domains)]
        if outside:
            raise LearningError(f"dropping rows {sorted(outside)}: expected indices below {len(self.row_domains)}")
        kept = [index for index in range(len(self.row_domains)) if index not in set(indices)]
        return _of_rows(self.rows_ND[kept], tuple(self.row_domains[index] for index in kept), self.fingerprint)

    def to_bytes(self) -> bytes:
        """As safetensors; equal statistics give equal bytes."""
        document = {"fingerprint": self.fingerprint, "feature_dim": self.feature_dim, "row_domains": self.row_domains}
        if self.rows_ND is not None:
            return pack({"rows": self.rows_ND}, "statistics", document)
        tensors = {}
        for domain, sums in (self.sums or {}).items():
            tensors[f"{domain}.sum"] = sums.sum_D
            tensors[f"{domain}.gram"] = sums.gram
        return pack(tensors, "statistics", {**document, "counts": dict(self.counts)})

    @staticmethod
    def from_bytes(content: bytes) -> Statistics:
        """The inverse of `to_bytes`. Raises `LearningError` on damaged bytes."""
        tensors, document = unpack(content, "statistics")
        fingerprint = str(document["fingerprint"])
        if "rows" in tensors:
            return _of_rows(tensors["rows"], tuple(document["row_domains"]), fingerprint)
        sums = {
            domain: Sums(count, tensors[f"{domain}.sum"], tensors[f"{domain}.gram"])
            for domain, count in document["counts"].items()
        }
        return _of_sums(sums, int(document["feature_dim"]), fingerprint)


def checked_rows(features: ArrayLike, domains: Sequence[str]) -> Float64:
    """A C-contiguous float64 copy of `features`[n, d], cast before any product; raises `LearningError` if unusable."""
    rows_ND: Float64 = np.array(features, dtype=np.float64, order="C")
    if rows_ND.ndim != 2 or rows_ND.shape[0] != len(domains) or rows_ND.shape[1] == 0:
        raise LearningError(
            f"features of shape {rows_ND.shape} with {len(domains)} domains: expected [n, d] and n domain names"
        )
    if isinstance(domains, str) or not all(isinstance(domain, str) and domain for domain in domains):
        raise LearningError("domain names: expected a sequence of non-empty strings, one per row")
    finite = np.isfinite(rows_ND).all(axis=1)
    if not finite.all():
        raise LearningError(
            f"features: row {int(np.argmin(finite))} of {len(domains)} (domain {domains[int(np.argmin(finite))]!r}) "
            "is not finite; it would spoil the router for good, so the whole block is refused"
        )
    return rows_ND


def _counts(row_domains: Sequence[str]) -> dict[str, int]:
    return {domain: row_domains.count(domain) for domain in sorted(set(row_domains))}


def _of_rows(rows_ND: Float64, row_domains: tuple[str, ...], fingerprint: str) -> Statistics:
    counts = _counts(row_domains)
    return Statistics(fingerprint, rows_ND.shape[1], tuple(counts), counts, rows_ND, row_domains, None)


def _of_sums(sums: Mapping[str, Sums], dim: int, fingerprint: str) -> Statistics:
    ordered = {domain: sums[domain] for domain in sorted(sums)}
    counts = {domain: part.count for domain, part in ordered.items()}
    return Statistics(fingerprint, dim, tuple(ordered), counts, None, (), ordered)
