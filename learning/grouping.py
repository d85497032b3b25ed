"""How generations are joined, so that a total is had again from few sums while little is written twice.

Generations kept as rows are summed in groups; a domain of many rows is folded into one Gram matrix of its own, which is
as large as a group's and needs none. Does not know of counts, ridge or weights.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from itertools import islice

import numpy as np

from learning.generations import Generation, GenerationGroup, MomentsStore
from learning.moments import DomainMoments
from learning.symmetric import Float64, add_scaled

_GROUP_ROWS_PER_DIM = 2
"""A group of 2 d rows takes 16 d^2 bytes as rows and 4 d^2 as a sum: a quarter more to write; and as a domain's removal
sums up to that many rows anew, it bounds what a removal takes."""
_MOST_GRAMS = 3
_READ_AHEAD = 2


class Serials:
    """Numbers that no two generations of a router share, nor of routers that were copied from each other."""

    def __init__(self, last: int = 0) -> None:
        self.last = last

    def next(self) -> int:
        """A number that was never given."""
        self.last += 1
        return self.last


def tidied(
    moments: Mapping[str, DomainMoments],
    groups: tuple[GenerationGroup, ...],
    dim: int,
    store: MomentsStore,
    serials: Serials,
) -> tuple[GenerationGroup, ...]:
    """Fold the generations of domains that have many, and return the groups that sum the others."""
    for domain in sorted(moments):
        pieces = _foldable(moments[domain].generations, dim)
        if pieces:
            moments[domain].join(pieces, serials.next())
            gone = {each.serial for each in pieces}
            groups = tuple(group for group in groups if not group.members & gone)
    grouped = {serial for group in groups for serial in group.members}
    waiting: list[Generation] = []
    for each in sorted((g for part in moments.values() for g in part.generations), key=lambda g: g.serial):
        if each.form == "rows" and each.serial not in grouped:
            waiting.append(each)
            if sum(one.count for one in waiting) >= _GROUP_ROWS_PER_DIM * dim:
                groups = (*groups, GenerationGroup.of(waiting, dim, store))
                waiting = []
    return groups


def add_groups(packed: Float64, groups: tuple[GenerationGroup, ...], store: MomentsStore) -> None:
    """packed += the sums of all groups, in place; the next ones are read, and verified, while one is added."""
    with ThreadPoolExecutor(_READ_AHEAD) as readers:
        names = iter([group.name for group in groups])
        ahead = deque(readers.submit(store.get, name) for name in islice(names, _READ_AHEAD))
        while ahead:
            gram = np.ascontiguousarray(ahead.popleft().result()["gram"], dtype=np.float64)
            ahead.extend(readers.submit(store.get, name) for name in islice(names, 1))
            add_scaled(packed, gram, 1.0)


def _foldable(generations: tuple[Generation, ...], dim: int) -> tuple[Generation, ...]:
    """Those that are smaller as one Gram matrix: rows beyond their sums' size, or several Gram matrices."""
    rows = tuple(each for each in generations if each.form == "rows")
    grams = tuple(each for each in generations if each.form == "gram")
    enough = sum(each.count for each in rows) > (dim + 1) // 2
    if len(grams) > _MOST_GRAMS:
        return (*grams, *rows) if enough else grams
    return rows if enough else ()
