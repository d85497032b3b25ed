"""What a worker sends to the router about a block of examples: their features or the features' sums.

Rows cost n*d numbers, sums cost d(d+1)/2 + d per domain; `Statistics.of` takes whichever is fewer. Does not know how
either is used, nor where the rows came from.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from learning.errors import LearningError, UnusableFeatures
from learning.moments import Sums
from learning.symmetric import Float64, packed_length

LARGEST_FEATURE = 1e6
"""Magnitude beyond which a feature is taken for a fault. Standardised features are thousands of times smaller, and a
larger one would leave no digits of the other rows in the sums; far larger ones are infinite once squared."""
_ROUNDING = 1.001
"""By what factor rounded sums may at most exceed the sums of largest features."""


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

        Raises `UnusableFeatures`, which names the rows, or `LearningError` when shapes disagree.
        """
        rows_ND = checked_rows(features, domains)
        dim = rows_ND.shape[1]
        present = tuple(sorted(set(domains)))
        if rows_ND.size <= len(present) * (packed_length(dim) + dim):
            return _of_rows(rows_ND, tuple(domains), fingerprint)
        labels = np.asarray(domains)
        sums = {domain: Sums.of(rows_ND[labels == domain]) for domain in present}
        return _of_sums(sums, dim, fingerprint)


def usable_rows(features_ND: ArrayLike) -> NDArray[np.bool_]:
    """Tell of each row of features[n, d] whether all of it is finite and at most `LARGEST_FEATURE`; bool[n]."""
    # Widened first, as narrow types round the bound to infinity; and NaN is not below anything.
    magnitude_ND = np.abs(np.asarray(features_ND, dtype=np.float64))
    return np.asarray((magnitude_ND <= LARGEST_FEATURE).all(axis=1))


def checked_rows(features: ArrayLike, domains: Sequence[str]) -> Float64:
    """A C-contiguous float64 copy of `features`[n, d], cast before any product.

    Raises `UnusableFeatures`, which names the rows, or `LearningError` when shapes disagree.
    """
    rows_ND: Float64 = np.array(features, dtype=np.float64, order="C")
    if rows_ND.ndim != 2 or rows_ND.shape[0] != len(domains) or rows_ND.shape[1] == 0:
        raise LearningError(
            f"features of shape {rows_ND.shape} with {len(domains)} domains: expected [n, d] and n domain names"
        )
    if isinstance(domains, str) or not all(issubclass(kind, str) for kind in set(map(type, domains))) or "" in domains:
        raise LearningError("domain names: expected a sequence of non-empty strings, one per row")
    unusable = np.flatnonzero(~usable_rows(rows_ND)).tolist()
    if unusable:
        raise UnusableFeatures(
            f"features: {len(unusable)} of {len(domains)} rows are not finite or beyond {LARGEST_FEATURE:g}, first row "
            f"{unusable[0]} (domain {domains[unusable[0]]!r}); they would spoil the router for good: leave these out",
            unusable,
        )
    return rows_ND


def checked_sums(sums: Mapping[str, Sums], dim: int) -> dict[str, Sums]:
    """Copies of the sums of each domain's rows of dimension `dim`.

    Raises `LearningError` for sums that no usable rows have, before any is copied.
    """
    for domain, part in sums.items():
        shapes = part.sum_D.shape, part.gram.shape
        most = part.count * LARGEST_FEATURE * _ROUNDING
        if part.count < 1 or shapes != ((dim,), (packed_length(dim),)):
            raise LearningError(
                f"sums of domain {domain!r}: expected those of some rows of dimension {dim}, got {part.count} rows and "
                f"shapes {shapes}"
            )
        if not (_is_within(part.sum_D, most) and _is_within(part.gram, most * LARGEST_FEATURE)):
            raise LearningError(
                f"sums of domain {domain!r}: expected those of {part.count} rows of finite features up to "
                f"{LARGEST_FEATURE:g}, got larger ones; they would spoil the router for good: leave these out"
            )
    return {domain: part.copy() for domain, part in sums.items()}


def _is_within(values: Float64, bound: float) -> bool:
    """Whether all are numbers of at most this magnitude, without a temporary of their size."""
    return bool(values.max() <= bound and values.min() >= -bound)


def _counts(row_domains: Sequence[str]) -> dict[str, int]:
    return {domain: row_domains.count(domain) for domain in sorted(set(row_domains))}


def _of_rows(rows_ND: Float64, row_domains: tuple[str, ...], fingerprint: str) -> Statistics:
    counts = _counts(row_domains)
    return Statistics(fingerprint, rows_ND.shape[1], tuple(counts), counts, rows_ND, row_domains, None)


def _of_sums(sums: Mapping[str, Sums], dim: int, fingerprint: str) -> Statistics:
    ordered = {domain: sums[domain] for domain in sorted(sums)}
    counts = {domain: part.count for domain, part in ordered.items()}
    return Statistics(fingerprint, dim, tuple(ordered), counts, None, (), ordered)
