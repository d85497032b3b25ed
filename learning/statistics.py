"""What a worker sends to the router about a block of examples: their features or the features' sums.

Rows cost n*d numbers, sums cost d(d+1)/2 + d per domain; `Statistics.of` takes whichever is fewer. Does not know how
either is used, nor where the rows came from.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from learning.errors import LearningError, NonFiniteFeatures
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

        Raises `NonFiniteFeatures`, which names the rows, or `LearningError` when shapes disagree.
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


def checked_rows(features: ArrayLike, domains: Sequence[str]) -> Float64:
    """A C-contiguous float64 copy of `features`[n, d], cast before any product.

    Raises `NonFiniteFeatures`, which names the rows, or `LearningError` when shapes disagree.
    """
    rows_ND: Float64 = np.array(features, dtype=np.float64, order="C")
    if rows_ND.ndim != 2 or rows_ND.shape[0] != len(domains) or rows_ND.shape[1] == 0:
        raise LearningError(
            f"features of shape {rows_ND.shape} with {len(domains)} domains: expected [n, d] and n domain names"
        )
    if isinstance(domains, str) or not all(isinstance(domain, str) and domain for domain in domains):
        raise LearningError("domain names: expected a sequence of non-empty strings, one per row")
    unusable = np.flatnonzero(~np.isfinite(rows_ND).all(axis=1)).tolist()
    if unusable:
        raise NonFiniteFeatures(
            f"features: {len(unusable)} of {len(domains)} rows are not finite, first row {unusable[0]} "
            f"(domain {domains[unusable[0]]!r}); they would spoil the router for good: leave these rows out",
            unusable,
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
