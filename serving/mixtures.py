"""Several adapters that answer as one: how they are named, how much each counts, and the composite made of them.

    german+italian              each with the same share
    german*0.7+italian*0.3      W + 0.7 s B A + 0.3 s' B' A'
    auto, the k best            shares by how near they score to the best, in quarters

Weights are put to a sum of one, and kept as whole numbers without a common divisor: `b*0.3+a*0.7` and `a*7+b*3` are
one mixture, named `a*7+b*3`. A composite is to the engine an adapter like any other, made of its parts' folders when it
is to be loaded. Of all that were asked for the last are kept, as long as their parts are served. Knows no request and
no scores' meaning.
"""

from __future__ import annotations

import math
import re
import shutil
import tempfile
import threading
from collections import OrderedDict
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from serving.engine import LoadedAdapter
from serving.openai_body import bad_request
from serving.options import MOST_PARTS

if TYPE_CHECKING:
    from registry.manifest import Placed

_WEIGHT = re.compile(r"[0-9]{1,3}(\.[0-9]{1,3})?", re.ASCII)
_THOUSANDTHS = 1000
# What a weight as it is written is below.
_BEYOND = 1000
_QUARTERS = 4


@dataclass(frozen=True)
class MixedAdapters:
    """Adapters with their weights, in the order of their names, no adapter twice. Made by `of`."""

    parts: tuple[tuple[LoadedAdapter, float], ...]
    """The weights' sum is one."""
    name: str
    """The parts' full version names, with their weights where these are not even."""

    @cached_property
    def domain(self) -> str:
        """The parts' domains, joined by `+`."""
        return "+".join(adapter.domain for adapter, _ in self.parts)

    @property
    def rank(self) -> int:
        """That of the sum."""
        return sum(adapter.rank for adapter, _ in self.parts)

    @staticmethod
    def of(parts: Sequence[tuple[LoadedAdapter, int]]) -> MixedAdapters:
        """`parts` in any order, with weights above 0. Raises Refused (400) where an adapter is named twice."""
        if len({adapter.name for adapter, _ in parts}) < len(parts):
            raise bad_request("a mixture names an adapter once; leave out the other, or give it more weight", "model")
        divisor, total = math.gcd(*(units for _, units in parts)), sum(units for _, units in parts)
        ordered = sorted(((adapter, units // divisor) for adapter, units in parts), key=lambda part: part[0].name)
        name = "+".join(adapter.name + _told(units, [each for _, each in ordered]) for adapter, units in ordered)
        return MixedAdapters(tuple((adapter, units * divisor / total) for adapter, units in ordered), name)


def is_mixture(model: str) -> bool:
    """Whether a name is one of several, or of one with a weight; no domain and no version has these in its name."""
    return "+" in model or "*" in model


def named_parts(model: str) -> list[tuple[str, int]]:
    """The names in `a*0.7+b*0.3`, with weights in thousandths, or 1 each where none is given. Raises Refused (400)."""
    named = [part.partition("*") for part in model.split("+", MOST_PARTS)]
    if len(named) > MOST_PARTS:
        raise bad_request(f"a mixture is of at most {MOST_PARTS} adapters, got more", "model")
    if not all(name for name, _, _ in named):
        raise bad_request("a mixture is written a+b or a*0.7+b*0.3; a name is missing", "model")
    weighted = [bool(star) for _, star, _ in named]
    if not any(weighted):
        return [(name, 1) for name, _, _ in named]
    units = [round(float(weight) * _THOUSANDTHS) if _WEIGHT.fullmatch(weight) else 0 for _, _, weight in named]
    if not all(weighted) or not all(units):
        raise bad_request(
            "a mixture's weights are given for all parts or for none, each above 0 and below 1000, with three digits "
            "behind the point at most, as in a*0.7+b*0.3",
            "model",
        )
    return [(name, each) for (name, _, _), each in zip(named, units, strict=True)]


def _told(units: int, among: Sequence[int]) -> str:
    """A weight as it is written, so that it is read as the same again."""
    if max(among) == 1:
        return ""
    return f"*{units}" if max(among) < _BEYOND else f"*{units / _THOUSANDTHS:g}"


def quarters(scores: Sequence[float], scale: float) -> list[int]:
    """What each of some adapters counts for by its score, the first being whoever answers alone if nobody comes near:
    exp(-(s_1 - s_i) / scale) among them, which is the softmax of their scores, in whole quarters by the largest
    remainders."""
    leads = [score - scores[0] for score in scores]
    weights = [math.exp(min(0.0, lead / scale)) if scale else float(lead >= 0) for lead in leads]
    wanted = [_QUARTERS * weight / sum(weights) for weight in weights]
    units = [math.floor(each) for each in wanted]
    by_remainder = sorted(range(len(wanted)), key=lambda at: units[at] - wanted[at])
    for at in by_remainder[: _QUARTERS - sum(units)]:
        units[at] += 1
    return units


@dataclass(frozen=True)
class Composite:
    """What a mixture is made of; `adapter` is its name, `rank` the sum's, or what the engine takes of it."""

    adapter: str
    rank: int
    parts: tuple[tuple[Source, float], ...]


if TYPE_CHECKING:
    Source = Placed | Composite
    """What an adapter is read from."""


class Composites:
    """Those of one replica. `read` gives a version's folder, checked, and None where the base answers for it; `rank` is
    the largest that the engine takes, `most` how many are kept beside those in use."""

    def __init__(self, read: Callable[[Source], Path | None], rank: int, most: int) -> None:
        self._read, self._rank, self._most = read, rank, most
        self._asked_for: OrderedDict[str, Composite] = OrderedDict()
        self._at: tempfile.TemporaryDirectory[str] | None = None
        self._beginning = threading.Lock()
        self._folders: dict[str, Path] = {}

    def of(self, mixture: MixedAdapters, sources: Sequence[Source]) -> Composite:
        """The mixture's, which from now on is the last that was asked for; `sources` are its parts', in their order."""
        weights = (weight for _, weight in mixture.parts)
        made = Composite(mixture.name, min(mixture.rank, self._rank), tuple(zip(sources, weights, strict=True)))
        composite = self._asked_for.setdefault(mixture.name, made)
        self._asked_for.move_to_end(mixture.name)
        while len(self._asked_for) > self._most:
            self._asked_for.popitem(last=False)
        return composite

    def within(self, served: Collection[str]) -> set[str]:
        """Names of those that are kept, as all their parts are among these versions."""
        return {
            name
            for name, composite in self._asked_for.items()
            if all(source.adapter in served for source, _ in composite.parts)
        }

    def folder(self, composite: Composite) -> Path | None:
        """Make its PEFT folder, anew each time; None where the base answers. Blocks.

        Raises what `read` raises, and `LearningError` where its parts can't be mixed.
        """
        # Late: it needs torch, and most replicas never mix anything.
        from learning.mixing import mix

        read = [(self._read(source), weight) for source, weight in composite.parts]
        parts = [(folder, weight) for folder, weight in read if folder is not None]
        if not parts:
            return None
        with self._beginning:
            if self._at is None:
                self._at = tempfile.TemporaryDirectory(prefix="anabranch-mixtures-", ignore_cleanup_errors=True)
        made = Path(tempfile.mkdtemp(dir=self._at.name))
        try:
            mix(parts, self._rank, made)
        except BaseException:
            shutil.rmtree(made, ignore_errors=True)
            raise
        self._drop(composite.adapter)
        self._folders[composite.adapter] = made
        return made

    def keep(self, known: Collection[str]) -> None:
        """Remove the folders of all but these, and remember no others."""
        for name in self._folders.keys() - set(known):
            self._drop(name)
        for name in self._asked_for.keys() - set(known):
            del self._asked_for[name]

    def close(self) -> None:
        """Remove all folders."""
        if self._at is not None:
            self._at.cleanup()

    def _drop(self, name: str) -> None:
        if (folder := self._folders.pop(name, None)) is not None:
            shutil.rmtree(folder, ignore_errors=True)
