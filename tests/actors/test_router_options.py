"""What the router is made with may change from one start to the next; held-out rows and general text among it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from actors.change import Change
from actors.observation import Background, HeldOutRows, Observation
from actors.router import Router
from actors.upkeep import Keep, Upkeep
from learning.heads import BACKGROUND
from learning.router_options import RouterOptions
from learning.served_router import ServedRouter
from learning.statistics import Statistics
from registry.adapters import Adapter
from registry.manifest import BaseRevision, Manifest, RouterRef
from registry.registry import Registry
from tests.actors.house import House
from tests.actors.router_rows import P0, Row, features, keys, of, seal_and_publish

Add = Callable[..., Adapter]
BASE = BaseRevision(model="tiny", digest="b" * 64)
OPTIONS = RouterOptions(ridge=2.0, keep=0.8, calibration_rows=8)
ALPHA, BETA, HELD_OUT = of("alpha", range(20)), of("beta", range(20)), of("alpha", range(20, 36))
GENERAL = of("other", range(12))
CHANGED = Change("router options changed")


def background(rows: Sequence[Row] = GENERAL, digest: str = "general") -> Background:
    return Background(digest, Statistics.of(features(rows), [BACKGROUND] * len(rows), "f"))


class Section(RouterOptions):
    """As settings have it: the options, and where the router runs."""

    num_cpus: float = 0.25


def feed(router: Router) -> None:
    router.take_background(background())
    rows = [*ALPHA, *BETA]
    named = (*keys(rows), *keys(HELD_OUT, len(rows), held_out=True))
    statistics = Statistics.of(features(rows), [domain for domain, _ in rows], "f")
    digests = tuple(key.digest for key in named if key.held_out)
    held_out = HeldOutRows("f", digests, features(HELD_OUT).astype(np.float32))
    assert router.observe(Observation({P0: (0, len(named))}, named, (), statistics, held_out)).applied


def in_force(registry: Registry) -> ServedRouter:
    manifest = registry.current()
    assert manifest is not None
    return ServedRouter.from_bytes(registry.weights(manifest))


def reference(registry: Registry) -> RouterRef:
    manifest = registry.current()
    assert manifest is not None and manifest.router is not None
    return manifest.router


@pytest.fixture
def published(registry: Registry, add: Add) -> Registry:
    """Alpha in service, beta only counted."""
    router = Router(registry, BASE, OPTIONS)
    feed(router)
    seal_and_publish(router, add("alpha"))
    return registry


@pytest.mark.parametrize(
    "option",
    [
        {"ridge": 50.0},
        {"head": "lda"},
        {"abstention": "both"},
        {"keep": 0.5},
        {"calibration_rows": 3},
        {"calibration_rows": 0},
        {"background": False},
    ],
    ids=str,
)
def test_another_option_makes_the_router_that_it_would_have_made_from_the_first_row_on(
    published: Registry, tmp_path: Any, add: Add, option: dict[str, Any]
) -> None:
    options = OPTIONS.model_copy(update=option)
    before = reference(published)
    router = Router(published, BASE, options)
    assert router.is_outdated() and router.publish(CHANGED).number == 2
    assert reference(published).model_dump(include=set(option)) == {
        name: "" if value is False else value for name, value in option.items()
    }
    fresh_registry = Registry(tmp_path / "fresh", writer=True)
    fresh = Router(fresh_registry, BASE, options)
    feed(fresh)
    seal_and_publish(fresh, _again(fresh_registry, published.adapters()[0]))
    mine, theirs = in_force(published), in_force(fresh_registry)
    np.testing.assert_allclose(mine.weights.weight_DK, theirs.weights.weight_DK, rtol=1e-9, atol=1e-12)
    assert mine.weights.domains == theirs.weights.domains
    assert (mine.abstention.rows, mine.abstention.threshold) == pytest.approx(
        (theirs.abstention.rows, theirs.abstention.threshold)
    )
    assert reference(published).digest != before.digest
    # That is all there is to it.
    assert not router.is_outdated() and router.publish(CHANGED).number == 2


def _again(registry: Registry, adapter: Adapter) -> Adapter:
    return registry.add_adapter(adapter.domain, adapter.version, adapter.path, adapter.facts)


def test_the_same_options_after_a_restart_change_nothing(published: Registry) -> None:
    router = Router(published, BASE, OPTIONS.model_copy())
    assert not router.is_outdated() and router.publish(CHANGED).number == 1


@pytest.mark.parametrize("option", [{"ridge": 50.0}, {"background": False}], ids=str)
def test_any_publication_takes_the_options_of_its_time(published: Registry, option: dict[str, Any]) -> None:
    before = in_force(published)
    router = Router(published, BASE, OPTIONS.model_copy(update=option))
    manifest = router.publish(Change("pinned", pins={"alpha": True}))
    assert manifest.routes["alpha"].pinned and not router.is_outdated()
    after = in_force(published)
    assert after.to_bytes() != before.to_bytes()
    assert (BACKGROUND in after.weights.domains) == ("background" not in option)


def test_what_an_earlier_writer_did_not_say_counts_as_other(
    registry: Registry, add: Add, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its manifest stays what it was, and is known by the bytes that it has."""
    unsaid = {"router": {"ridge", "background", "calibration_rows"}}
    with monkeypatch.context() as earlier:
        earlier.setattr(Manifest, "to_json", lambda self: self.model_dump_json(indent=1, exclude=unsaid) + "\n")
        router = Router(registry, BASE, OPTIONS)
        feed(router)
        seal_and_publish(router, add("alpha"))
    later = Router(registry, BASE, OPTIONS)
    assert later.is_outdated() and later.publish(CHANGED).number == 2
    assert not later.is_outdated() and reference(registry).ridge == OPTIONS.ridge
    assert [manifest.number for manifest in registry.manifests()] == [1, 2] and not registry.chain().damaged


def test_the_background_goes_and_comes_back(published: Registry) -> None:
    off = Router(published, BASE, OPTIONS.model_copy(update={"background": False}))
    off.take_background(background())
    off.publish(CHANGED)
    assert in_force(published).weights.domains == ("alpha",)
    assert not in_force(published).decide(features(GENERAL)).background_N.any()
    on = Router(published, BASE, OPTIONS)
    assert not on.is_outdated(), "it waits for the texts' features"
    on.take_background(background())
    assert on.is_outdated() and on.publish(CHANGED).number == 3
    assert in_force(published).weights.domains == (BACKGROUND, "alpha")
    assert in_force(published).decide(features(GENERAL)).background_N.any()
    assert not on.is_outdated()


def test_other_general_texts_are_other_weights(published: Registry) -> None:
    router = Router(published, BASE, OPTIONS)
    router.take_background(background())
    assert not router.is_outdated(), "the same texts"
    router.take_background(background(of("more", range(9)), "another"))
    assert router.is_outdated() and router.publish(CHANGED).number == 2
    assert reference(published).background == "another"


def test_nothing_is_outdated_before_there_is_anything(registry: Registry, add: Add) -> None:
    router = Router(registry, BASE, OPTIONS)
    assert not router.is_outdated()
    feed(router)
    seal_and_publish(router, add("alpha"))
    router.publish(Change("removed", removes={"alpha": 1}))
    other = Router(registry, BASE, OPTIONS.model_copy(update={"ridge": 3.0}))
    assert not other.is_outdated(), "nothing is in service"


def test_a_system_that_starts_with_other_options_publishes_them_by_itself(two_versions: House) -> None:
    house = two_versions
    before = house.current
    house.router_options = RouterOptions(ridge=50.0, background=False)
    house.start_router()
    house.settle(lambda: house.current.number > before.number)
    after = house.current
    assert (after.routes, after.reason) == (before.routes, "router options changed")
    assert after.router is not None and after.router.ridge == 50.0
    for _ in range(3):
        house.tick()
    assert house.current == after and house.status().trouble is None


def test_a_publication_of_other_options_that_fails_is_said_and_tried_again(monkeypatch: pytest.MonkeyPatch) -> None:
    failures: list[Exception] = [ConnectionError("the directory is away"), ConnectionError("still")]
    published: list[Change] = []

    def publish(decide: Callable[[], Change]) -> None:
        if failures:
            raise failures.pop(0)
        published.append(decide())

    registry: Any = SimpleNamespace(head=lambda: SimpleNamespace(snapshot=0))
    router: Any = SimpleNamespace(is_outdated=lambda: not published)
    publisher: Any = SimpleNamespace(publish=publish, lead_on=lambda: None)
    upkeep = Upkeep(registry, router, registry, publisher, Keep(2, 20, 3))
    now = 100.0
    monkeypatch.setattr("time.monotonic", lambda: now)
    for left in (1, 0):
        upkeep.go_over(is_idle=False)
        upkeep.go_over(is_idle=False)
        assert len(failures) == left, "not before the pause is over"
        assert upkeep.trouble is not None and "made anew with other options" in upkeep.trouble
        now += 100.0
    upkeep.go_over(is_idle=False)
    assert [change.reason for change in published] == ["router options changed"] and upkeep.trouble is None


def test_a_router_that_is_away_is_no_trouble_of_its_options() -> None:
    def away() -> bool:
        raise ConnectionError

    registry: Any = SimpleNamespace(head=lambda: SimpleNamespace(snapshot=0))
    router: Any = SimpleNamespace(is_outdated=away)
    nobody: Any = SimpleNamespace(lead_on=lambda: None)
    upkeep = Upkeep(registry, router, registry, nobody, Keep(2, 20, 3))
    upkeep.go_over(is_idle=False)
    assert upkeep.trouble is None


def test_a_manifest_names_the_options_and_nothing_else_of_their_section(published: Registry) -> None:
    router = Router(published, BASE, Section(**OPTIONS.model_dump()))
    assert not router.is_outdated()
    router = Router(published, BASE, Section(**OPTIONS.model_copy(update={"ridge": 3.0}).model_dump()))
    assert router.is_outdated() and router.publish(CHANGED).router == reference(published)
    assert reference(published).ridge == 3.0
