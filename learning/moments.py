"""The sums that ridge regression needs of one domain's rows, kept in the smaller of two forms.

Few rows are kept as they are; once they would take more room than their sums they are folded into

    gram = sum_i x_i x_i^T   (packed symmetric, see `learning.symmetric`)      sum_D = sum_i x_i

which with one-hot targets is all that ridge regression asks of a domain. Rows that were sealed lie in a store, as
generations. Does not know of other domains, of the ridge or of weights.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from learning.errors import LearningError
from learning.generations import Generation, MomentsStore
from learning.symmetric import Float64, add_outer, add_scaled, packed_length

FOLD_ROWS = 512
"""Rows gathered before a rank-k update: enough for BLAS-3 speed, few enough to keep in memory twice."""


@dataclass(frozen=True, eq=False)
class Sums:
    """Count, sum vector float64[d] and packed Gram float64[d(d+1)/2] of some rows of one domain."""

    count: int
    sum_D: Float64  # noqa: N815 - shape suffix
    gram: Float64

    @staticmethod
    def of(rows_ND: Float64) -> Sums:
        """The sums of `rows_ND`, float64[n, d]."""
        gram = np.zeros(packed_length(rows_ND.shape[1]))
        add_outer(gram, np.ascontiguousarray(rows_ND))
        return Sums(len(rows_ND), rows_ND.sum(axis=0), gram)

    def copy(self) -> Sums:
        """With arrays of its own."""
        return Sums(self.count, self.sum_D.copy(), self.gram.copy())

    def add(self, others: Sums) -> Sums:
        """Both together, in the Gram array of this one, which is of no more use by itself."""
        sum_D = self.sum_D + others.sum_D
        add_scaled(self.gram, others.gram, 1.0)
        return Sums(self.count + others.count, sum_D, self.gram)


class DomainMoments:
    """One domain's rows, exactly summed; rows handed in are kept by reference and never written to.

    What may fail is done before anything changes: an error leaves the same rows summed as before.
    """

    def __init__(self, dim: int, store: MomentsStore | None = None) -> None:
        self.dim = dim
        self._store = store
        self._blocks: list[Float64] = []
        self._block_rows = 0
        self._sums: Sums | None = None
        self.generations: tuple[Generation, ...] = ()
        """What is sealed."""
        self._sealed_sum_D: Float64 | None = None

    @property
    def count(self) -> int:
        """Rows summed so far."""
        return self.open_count + sum(each.count for each in self.generations)

    @property
    def open_count(self) -> int:
        """Rows that are not sealed."""
        return self._block_rows + (self._sums.count if self._sums else 0)

    @property
    def sums(self) -> Sums | None:
        """The folded part of what is not sealed, or None while every row of it is kept."""
        return self._sums

    def rows(self) -> Float64:
        """The rows that are neither folded nor sealed, float64[n, d], joined into one block."""
        if len(self._blocks) != 1:
            self._blocks = [np.concatenate([np.empty((0, self.dim)), *self._blocks])]
        return self._blocks[0]

    def sum_vector(self) -> Float64:
        """The sum of all rows, float64[d]."""
        total: Float64 = self.rows().sum(axis=0)
        for part in (self._sums.sum_D if self._sums else None, self._sealed_sum_D):
            total = total if part is None else total + part
        return total

    def parts(self) -> Iterator[Sums | Float64]:
        """All that is summed, piece by piece: rows float64[n, d], or sums."""
        for each in self.generations:
            body = each.body(self._stored)
            yield body if each.form == "rows" else Sums(each.count, each.sum_vector(self._stored), body)
        if self._sums is not None:
            yield self._sums
        if self._block_rows:
            yield self.rows()

    def whole(self) -> tuple[Float64, Sums | None]:
        """All that is summed, sealed or not: the rows kept as they are, float64[n, d], and the sums of the others."""
        rows: list[Float64] = [np.empty((0, self.dim))]
        sums: Sums | None = None
        for part in self.parts():
            if isinstance(part, Sums):
                sums = part.copy() if sums is None else sums.add(part)
            else:
                rows.append(part)
        return np.concatenate(rows), sums

    def joined(self, other: DomainMoments) -> DomainMoments:
        """The rows of both, sealed ones by name; neither changes, and no row is read or written."""
        both = DomainMoments(self.dim, self._store)
        both._blocks = [*self._blocks, *other._blocks]
        both._block_rows = self._block_rows + other._block_rows
        both._sums = self._sums.copy() if self._sums else None
        if other._sums is not None:
            both.add_sums(other._sums.copy())
        both.generations = (*self.generations, *other.generations)
        sealed = [each for each in (self._sealed_sum_D, other._sealed_sum_D) if each is not None]
        both._sealed_sum_D = np.sum(sealed, axis=0) if sealed else None
        both.make_room()
        return both

    def make_room(self) -> None:
        """Fold what is kept as rows, where sums are the smaller form: the same sums otherwise kept."""
        limit = (self.dim + 1) // 2
        if self._sums is not None:
            limit = min(limit, FOLD_ROWS)
        if self._block_rows > limit:
            self._fold()

    def add_rows(self, rows_ND: Float64) -> None:
        """Takes in C-contiguous float64[n, d] rows, as they are."""
        self._blocks.append(rows_ND)
        self._block_rows += len(rows_ND)

    def add_sums(self, sums: Sums) -> None:
        """Takes in sums that were made elsewhere, whose arrays are its own from now on."""
        self._sums = sums if self._sums is None else self._sums.add(sums)

    def add_gram_to(self, packed: Float64, weight: float = 1.0, without: frozenset[int] = frozenset()) -> None:
        """packed += weight * gram of all rows but those of the generations `without`, in place."""
        for each in self.generations:
            if each.serial not in without:
                each.add_gram_to(packed, self._stored, weight)
        if self._sums is not None:
            add_scaled(packed, self._sums.gram, weight)
        add_outer(packed, self.rows(), alpha=weight)

    # -- sealing ------------------------------------------------------------------------------------------------------

    def seal(self, serial: int) -> bool:
        """Put what is open into the store as generation `serial`; tells whether there was anything."""
        if self.open_count == 0:
            return False
        if self._sums is None and self._block_rows <= (self.dim + 1) // 2:
            rows_ND = self.rows()
            generation = Generation.of_rows(serial, rows_ND, self._stored)
            sum_D = rows_ND.sum(axis=0)
        else:
            self._fold()
            sums = self._folded()
            generation = Generation.of_gram(serial, sums.count, sums.sum_D, sums.gram, self._stored)
            sum_D = sums.sum_D
        self._take((*self.generations, generation), sum_D if self._sealed_sum_D is None else self._sealed_sum_D + sum_D)
        self._blocks, self._block_rows, self._sums = [], 0, None
        return True

    def restore(self, generations: tuple[Generation, ...]) -> None:
        """Begin with generations that lie in the store."""
        sum_D = np.zeros(self.dim)
        for each in generations:
            sum_D += each.sum_vector(self._stored)
        self._take(generations, sum_D)

    def regroup(self, generations: tuple[Generation, ...]) -> None:
        """Put generations that hold the same rows in the place of its own."""
        self._take(generations, self._sealed_sum_D)

    def _take(self, generations: tuple[Generation, ...], sum_D: Float64 | None) -> None:
        self.generations, self._sealed_sum_D = generations, sum_D

    def _fold(self) -> None:
        rows_ND = self.rows()
        own = self._sums
        if own is None:
            sums = Sums.of(rows_ND)
        else:
            sum_D = own.sum_D + rows_ND.sum(axis=0)
            add_outer(own.gram, rows_ND)
            sums = Sums(own.count + len(rows_ND), sum_D, own.gram)
        self._sums, self._blocks, self._block_rows = sums, [], 0

    def _folded(self) -> Sums:
        if self._sums is None:
            raise LearningError("folding a domain: it has no rows")
        return self._sums

    @property
    def _stored(self) -> MomentsStore:
        if self._store is None:
            raise LearningError("sealing a router: expected a store to keep its rows in; give it one when it is made")
        return self._store
