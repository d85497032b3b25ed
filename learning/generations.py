"""A domain's rows between two seals of the router, kept outside its memory: immutable, in the smaller of two forms.

A generation is two entries of a store: the rows' sum vector, which every start needs, and their body, the rows
themselves or their packed Gram matrix, which is read only where a total is summed anew. Does not know of domains.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from learning.errors import LearningError
from learning.symmetric import Float64, add_outer, add_scaled, packed_length


class MomentsStore(Protocol):
    """Where generations and totals lie: immutable, named by content, durable when `put` returns."""

    def put(self, tensors: Mapping[str, NDArray[Any]]) -> str: ...

    def get(self, name: str) -> Mapping[str, NDArray[Any]]:
        """May be called by several threads at once."""
        ...


Form = Literal["rows", "gram"]


@dataclass(frozen=True)
class Generation:
    """`count` rows; `serial` tells it from every other of the same router, also from one of equal content."""

    serial: int
    count: int
    sum_name: str
    body_name: str
    form: Form

    @staticmethod
    def of_rows(serial: int, rows_ND: Float64, store: MomentsStore) -> Generation:
        """Put `rows_ND`, float64[n, d], into the store."""
        sum_name = store.put({"sum": rows_ND.sum(axis=0)})
        return Generation(serial, len(rows_ND), sum_name, store.put({"rows": rows_ND}), "rows")

    @staticmethod
    def of_gram(serial: int, count: int, sum_D: Float64, gram: Float64, store: MomentsStore) -> Generation:
        """Put the sums of `count` rows into the store; `gram` is packed."""
        return Generation(serial, count, store.put({"sum": sum_D}), store.put({"gram": gram}), "gram")

    @staticmethod
    def of_joined(serial: int, generations: Sequence[Generation], dim: int, store: MomentsStore) -> Generation:
        """Put the sums of several generations of dimension `dim`, read from the store, there as one."""
        gram, sum_D = np.zeros(packed_length(dim)), np.zeros(dim)
        for each in generations:
            each.add_gram_to(gram, store)
            sum_D += each.sum_vector(store)
        return Generation.of_gram(serial, sum(each.count for each in generations), sum_D, gram, store)

    def sum_vector(self, store: MomentsStore) -> Float64:
        """The sum of its rows, float64[d]."""
        found: Float64 = np.array(store.get(self.sum_name)["sum"], dtype=np.float64)
        return found

    def body(self, store: MomentsStore) -> Float64:
        """Rows float64[n, d], or packed Gram float64[d(d+1)/2], as `form` says."""
        found: Float64 = np.ascontiguousarray(store.get(self.body_name)[self.form], dtype=np.float64)
        return found

    def add_gram_to(self, packed: Float64, store: MomentsStore, weight: float = 1.0) -> None:
        """packed += weight * gram of its rows, in place."""
        body = self.body(store)
        if self.form == "gram":
            add_scaled(packed, body, weight)
        else:
            add_outer(packed, body, alpha=weight)

    @property
    def names(self) -> tuple[str, str]:
        """Its entries in the store."""
        return self.sum_name, self.body_name

    def to_list(self) -> list[Any]:
        """As JSON keeps it."""
        return [self.serial, self.count, self.sum_name, self.body_name, self.form]

    @staticmethod
    def from_list(entry: list[Any]) -> Generation:
        """The inverse of `to_list`; LearningError for what is none."""
        match entry:
            case [int(serial), int(count), str(sum_name), str(body_name), "rows" | "gram" as form]:
                return Generation(serial, count, sum_name, body_name, form)
        raise LearningError(f"restoring a generation: expected serial, count, two names and a form, got {entry!r:.80}")


@dataclass(frozen=True)
class GenerationGroup:
    """The Gram matrix of some generations of any domains, summed once; `members` are their serials."""

    name: str
    members: frozenset[int]

    @staticmethod
    def of(generations: list[Generation], dim: int, store: MomentsStore) -> GenerationGroup:
        """Sum generations of dimension `dim` from the store, and put the sum there."""
        gram = np.zeros(packed_length(dim))
        for each in generations:
            each.add_gram_to(gram, store)
        return GenerationGroup(store.put({"gram": gram}), frozenset(each.serial for each in generations))
