"""Of what make the features are that the router knows: the first of any kind say it, and others are refused."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from actors.observation import Background, HeldOutRows, Observation
from actors.router import Router
from learning.errors import FingerprintMismatch, UnusableFeatures
from learning.heads import BACKGROUND
from learning.reservoir import Reservoir
from learning.router_options import RouterOptions
from learning.statistics import Statistics
from registry.manifest import BaseRevision
from registry.registry import Registry
from tests.actors.router_rows import P0, P1, features, keys, observation, of

BASE = BaseRevision(model="tiny", digest="b" * 64)
Feed = Callable[[Router, str], object]


def held_out(start: int, make: str, *, scale: float = 1.0, width: int = 9) -> Observation:
    """Two held-out rows alone."""
    rows = of("alpha", [start, start + 1])
    named = tuple(keys(rows, start, held_out=True))
    drawn = (scale * features(rows)).astype(np.float32)[:, :width]
    return Observation(
        {P0: (start, start + 2)}, named, held_out=HeldOutRows(make, tuple(key.digest for key in named), drawn)
    )


def train(router: Router, make: str) -> object:
    start = router.observed().get(P1, 0)
    rows = of("beta", [start, start + 1])
    return router.observe(observation({P1: (start, start + 2)}, rows, fingerprint=make)).applied


def examine(router: Router, make: str) -> object:
    return router.observe(held_out(router.observed().get(P0, 0), make)).applied


def give_background(router: Router, make: str) -> object:
    rows = of("other", range(3))
    router.take_background(Background(make, Statistics.of(features(rows), [BACKGROUND] * len(rows), make)))
    return router.view().background


def begin(registry: Registry, rows: int = 8) -> Router:
    return Router(registry, BASE, RouterOptions(calibration_rows=rows))


KINDS = pytest.mark.parametrize("kind", [train, examine, give_background])


@KINDS
@pytest.mark.parametrize("first", [train, examine, give_background])
@pytest.mark.parametrize("restarted", [False, True])
def test_features_of_another_make_are_refused_whatever_came_first(
    registry: Registry, first: Feed, kind: Feed, restarted: bool
) -> None:
    router = begin(registry)
    first(router, "f")
    if restarted:
        router.skip(P0, 100, 101)
        router = begin(registry)
    before = router.view(), router.counts()
    with pytest.raises(FingerprintMismatch, match=r"expected one fingerprint, got \['f', 'g'\]"):
        kind(router, "g")
    assert (router.view(), router.counts()) == before
    assert kind(router, "f")


@KINDS
def test_held_out_rows_that_are_refused_say_nothing_of_the_next(registry: Registry, kind: Feed) -> None:
    router = begin(registry)
    with pytest.raises(UnusableFeatures):
        router.observe(held_out(0, "g", scale=np.nan, width=5))
    assert kind(router, "f")
    assert examine(router, "f")


@KINDS
def test_held_out_rows_that_are_not_kept_say_nothing_either(registry: Registry, kind: Feed) -> None:
    router = begin(registry, rows=0)
    examine(router, "g")
    assert kind(router, "f")


def test_rows_of_which_nobody_said_the_make_are_of_that_of_the_next(
    registry: Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    router = begin(registry)
    examine(router, "f")
    seal = Reservoir.seal
    with monkeypatch.context() as earlier:
        earlier.setattr(Reservoir, "seal", lambda self: {k: v for k, v in seal(self).items() if k != "fingerprint"})
        router.skip(P0, 100, 101)
    router = begin(registry)
    assert examine(router, "f")
    with pytest.raises(FingerprintMismatch):
        train(router, "g")
