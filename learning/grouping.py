"""How generations are joined, so that a total is had again from few sums while little is written twice.

Generations kept as rows are summed in groups; a domain of many rows is folded into one Gram matrix of its own, which is
as large as a group's and needs none. What is joined stands beside the router until it is taken as a whole, because a
generation that counts by itself and in a group counts twice. Does not know of ridge or weights.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice

import numpy as np

from learning.errors import LearningError
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


@dataclass(frozen=True)
class Tidied:
    """The same rows in fewer pieces; of a router only once it takes both parts."""

    generations: Mapping[str, tuple[Generation, ...]]
    """All generations of each domain that had some joined."""
    groups: tuple[GenerationGroup, ...]


def tidied(
    moments: Mapping[str, DomainMoments],
    groups: tuple[GenerationGroup, ...],
    dim: int,
    store: MomentsStore,
    serials: Serials,
) -> Tidied:
    """Fold the generations of domains that have many, and sum the others in groups; only `serials` is drawn from.

    Writes to `store`, and passes on what that raises: `moments` and `groups` then stand for the same rows as before.
    """
    generations = {domain: part.generations for domain, part in moments.items()}
    joined: dict[str, tuple[Generation, ...]] = {}
    for domain in sorted(generations):
        pieces = _foldable(generations[domain], dim)
        if pieces:
            whole = Generation.of_joined(serials.next(), pieces, dim, store)
            joined[domain] = (*(each for each in generations[domain] if each not in pieces), whole)
            gone = {each.serial for each in pieces}
            groups = tuple(group for group in groups if not group.members & gone)
    generations.update(joined)
    grouped = {serial for group in groups for serial in group.members}
    waiting: list[Generation] = []
    for each in sorted((g for own in generations.values() for g in own), key=lambda g: g.serial):
        if each.form == "rows" and each.serial not in grouped:
            waiting.append(each)
            if sum(one.count for one in waiting) >= _GROUP_ROWS_PER_DIM * dim:
                groups = (*groups, GenerationGroup.of(waiting, dim, store))
                waiting = []
    return Tidied(joined, groups)


def check_groups(generations: Iterable[Generation], groups: Iterable[GenerationGroup], last: int) -> None:
    """Raise `LearningError` where generations and groups that were read back would count rows twice or not at all.

    Every generation has rows and a serial of its own, `last` at most, and every group sums generations that are there
    and that no other group sums.
    """
    held: set[int] = set()
    for each in generations:
        if each.count < 1 or each.serial in held or not 1 <= each.serial <= last:
            raise LearningError(
                f"restoring the router: expected generations of one row or more under serials of their own from 1 to "
                f"{last}, got {each.count} rows under serial {each.serial}; the snapshot is damaged: go back to an "
                "earlier one"
            )
        held.add(each.serial)
    summed = Counter(serial for group in groups for serial in group.members)
    wrong = [serial for serial, times in summed.items() if times > 1 or serial not in held]
    if wrong:
        raise LearningError(
            f"restoring the router: expected groups that sum each generation once at most, and only such as are there, "
            f"got other groups over serials {wrong[:5]} ({len(wrong)} in all); their rows would count twice: go back "
            "to an earlier snapshot"
        )


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
