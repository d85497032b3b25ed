"""The router: what is published equals the batch solve, settles what was sealed, and outlives the router."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from actors.change import Change
from actors.errors import NoLongerSealed, OtherHome, UnknownDomain
from actors.observation import Seal
from actors.router import Router
from learning.rls import StreamingRidge
from learning.router_options import RouterOptions
from registry.adapters import Adapter
from registry.errors import RegistryError, StaleWriter
from registry.manifest import BaseRevision
from registry.registry import Registry
from tests.actors.router_rows import (
    DIM,
    P0,
    P1,
    RIDGE,
    batch,
    close,
    features,
    keys,
    learned,
    observation,
    of,
    seal_and_publish,
    served,
)

# -- publishing -------------------------------------------------------------------------------------------------------


def test_published_weights_equal_the_batch_solve(
    start: Callable[[], Router], registry: Registry, add: Callable[..., Adapter]
) -> None:
    router = start()
    alpha, beta, gamma = of("alpha", range(30)), of("beta", range(20)), of("gamma", range(11))
    mixed = [*alpha, *beta, *gamma]
    for at in range(0, len(mixed), 8):
        block = mixed[at : at + 8]
        assert router.observe(observation({P0: (at, at + len(block))}, block)).applied
    first = seal_and_publish(router, add("alpha"))
    assert (first.number, set(first.routes), first.examples) == (1, {"alpha"}, {"alpha": 30, "beta": 20, "gamma": 11})
    weights = served(registry)
    assert weights.domains == ("alpha",), "what has no adapter yet is masked"
    # Masked, not left out: their rows shape the columns of those that are served.
    close(weights.weight_DK, batch(mixed, ["alpha"]))
    assert not np.allclose(weights.weight_DK, batch(alpha, ["alpha"]))
    seal_and_publish(router, add("gamma"))
    close(served(registry).weight_DK, batch(mixed, ["alpha", "gamma"]))


def test_a_publication_settles_what_was_sealed(start: Callable[[], Router], add: Callable[..., Adapter]) -> None:
    router = start()
    router.observe(observation({P0: (0, 3)}, of("alpha", range(2)), of("alpha", [2])))
    router.seal("alpha", 1, {P0: 3})
    router.observe(observation({P0: (3, 5)}, of("alpha", [3, 4])))
    assert router.view().low == {P0: 0}
    router.publish(learned(add("alpha")))
    for each in (router, start()):
        view = each.view()
        assert (view.low, view.durable, view.fences) == ({P0: 3}, {P0: 5}, {"alpha": {P0: 3}})
        assert (each.open()["alpha"].train, each.open()["alpha"].seal) == (2, None)
        assert each.examples() == {"alpha": 5}
        assert each.fates(keys(of("alpha", range(6)))) == ("gone",) * 3 + ("counted",) * 2 + ("new",)
        assert each.fates(keys(of("alpha", range(5)), 5)) == ("gone",) * 5, "sent again"


def test_what_is_not_sealed_is_not_published(
    start: Callable[[], Router], registry: Registry, add: Callable[..., Adapter]
) -> None:
    router = start()
    router.observe(observation({P0: (0, 3)}, of("alpha", range(3))))
    with pytest.raises(NoLongerSealed):
        router.publish(learned(add("alpha")))
    assert registry.current() is None


def test_a_rejected_adapter_is_not_published(start: Callable[[], Router], add: Callable[..., Adapter]) -> None:
    router = start()
    router.observe(observation({P0: (0, 1)}, of("alpha", [0])))
    with pytest.raises(RegistryError, match="rejected"):
        seal_and_publish(router, add("alpha", status="rejected"))
    assert router.open()["alpha"].seal == Seal(1, {P0: 1}, 1, 0), "nothing has changed"


def test_a_change_that_changes_nothing_makes_no_manifest(
    start: Callable[[], Router], add: Callable[..., Adapter]
) -> None:
    router = start()
    router.observe(observation({P0: (0, 1)}, of("alpha", [0])))
    adapter = add("alpha")
    seal_and_publish(router, adapter)
    assert router.publish(learned(adapter)).number == 1
    assert router.publish(Change("unpinned", pins={"alpha": False})).number == 1


def test_a_pin_keeps_the_weights_that_are_there(
    start: Callable[[], Router], registry: Registry, add: Callable[..., Adapter]
) -> None:
    router = start()
    router.observe(observation({P0: (0, 2)}, of("alpha", range(2))))
    before = seal_and_publish(router, add("alpha"))
    router.observe(observation({P0: (2, 4)}, of("beta", range(2))))
    after = router.publish(Change("pinned", pins={"alpha": True}))
    assert (after.number, after.router) == (2, before.router)
    seal_and_publish(router, add("beta"))
    close(served(registry).weight_DK, batch([*of("alpha", range(2)), *of("beta", range(2))], ["alpha", "beta"]))


def test_rows_of_a_pinned_domain_are_settled(start: Callable[[], Router], add: Callable[..., Adapter]) -> None:
    """The route does not change, but the rows were learned from: they are not learned from again."""
    router = start()
    router.observe(observation({P0: (0, 2)}, of("alpha", range(2))))
    first = add("alpha")
    seal_and_publish(router, first)
    router.publish(Change("pinned", pins={"alpha": True}))
    router.observe(observation({P0: (2, 5)}, of("alpha", range(2, 5))))
    second = add("alpha", 2)
    manifest = seal_and_publish(router, second)
    assert (manifest.number, manifest.routes["alpha"].adapter) == (3, first.name)
    again = start()
    assert (again.counts(), dict(again.observed()), again.open()) == ({"alpha": 5}, {P0: 5}, {})
    # It waits for the end of the pin; to publish it, or what is pinned, once more changes nothing.
    assert manifest.withdrawn == {"alpha": second.name}
    assert again.publish(learned(second)) == again.publish(learned(first)) == manifest
    manifest = again.publish(Change("unpin", puts={"alpha": second.name}, pins={"alpha": False}, override=True))
    assert (manifest.routes["alpha"], manifest.withdrawn) == (second.route(), {})


def test_under_a_pin_too_only_versions_of_the_domain_as_it_is_wait(
    start: Callable[[], Router], add: Callable[..., Adapter]
) -> None:
    router = start()
    router.observe(observation({P0: (0, 2)}, [("alpha", 0), ("beta", 0)]))
    old = add("alpha")
    seal_and_publish(router, old)
    router.publish(Change("removed", removes={"alpha": 1}))
    router.observe(observation({P0: (2, 3)}, of("alpha", [1])))
    seal_and_publish(router, add("alpha", 2))
    before = router.publish(Change("pinned", pins={"alpha": True}))
    router.observe(observation({P0: (3, 4)}, of("alpha", [2])))
    router.seal("alpha", 3, {P0: 4})
    with pytest.raises(NoLongerSealed, match="removed with manifest"):
        router.publish(learned(old))
    with pytest.raises(UnknownDomain, match="belongs to"):
        router.publish(Change("wrong", puts={"alpha": add("beta", 3).name}))
    assert router.publish(Change("pinned", pins={"alpha": True})) == before
    assert router.open()["alpha"].seal == Seal(3, {P0: 4}, 1, 0)


def test_removal_leaves_no_trace(start: Callable[[], Router], registry: Registry, add: Callable[..., Adapter]) -> None:
    router = start()
    alpha, beta = of("alpha", range(12)), of("beta", range(9))
    router.observe(observation({P0: (0, 21)}, [*alpha, *beta]))
    seal_and_publish(router, add("alpha"))
    seal_and_publish(router, add("beta"))
    manifest = router.publish(Change("removed", removes={"alpha": 3}, fence={P0: 24}))
    assert (set(manifest.routes), manifest.examples, manifest.removed["alpha"].version) == ({"beta"}, {"beta": 9}, 3)
    close(served(registry).weight_DK, batch(beta, ["beta"]))
    again = start()
    assert (again.counts(), again.examples(), again.open()) == ({"beta": 9}, {"beta": 9}, {})
    assert again.view().fences is not None and again.view().fences["alpha"] == {P0: 24}
    # What spools had read of it is gone for good; the same examples sent again are new.
    assert again.fates([*keys(alpha), *keys(alpha[:4], 21)]) == (*("gone",) * 12, *("gone",) * 3, "new")
    assert again.observe(observation({P0: (21, 24)}, [])).applied
    assert again.observe(observation({P0: (24, 36)}, alpha)).applied
    for refused in (add("alpha", 2), add("alpha", 3)):
        with pytest.raises(NoLongerSealed, match="removed with manifest"):
            again.publish(Change("pin", puts={"alpha": refused.name}, pins={"alpha": True}, override=True))
    seal_and_publish(again, add("alpha", 4))
    close(served(registry).weight_DK, batch([*alpha, *beta], ["alpha", "beta"]))


def test_what_was_learned_of_a_removed_domain_is_not_published(
    start: Callable[[], Router], add: Callable[..., Adapter]
) -> None:
    router = start()
    router.observe(observation({P0: (0, 3)}, of("alpha", range(3))))
    router.seal("alpha", 1, {P0: 3})
    router.publish(Change("removed", removes={"alpha": 1}))
    with pytest.raises(NoLongerSealed):
        router.publish(learned(add("alpha")))
    router.reopen("alpha", 1)
    assert router.open() == {}


def test_the_last_domain_may_be_removed(start: Callable[[], Router], add: Callable[..., Adapter]) -> None:
    router = start()
    router.observe(observation({P0: (0, 2)}, of("alpha", range(2))))
    seal_and_publish(router, add("alpha"))
    manifest = router.publish(Change("removed", removes={"alpha": 1}))
    assert (manifest.routes, manifest.router) == ({}, None)
    again = start()
    assert (again.counts(), dict(again.observed())) == ({}, {P0: 2})
    assert again.observe(observation({P0: (2, 4)}, of("beta", range(2)))).applied


def test_a_version_that_could_not_be_loaded_may_be_tried_again(
    start: Callable[[], Router], add: Callable[..., Adapter]
) -> None:
    router = start()
    router.observe(observation({P0: (0, 2)}, of("alpha", range(2))))
    first, second = add("alpha"), add("alpha", 2)
    seal_and_publish(router, first)
    router.observe(observation({P0: (2, 3)}, of("alpha", [2])))
    seal_and_publish(router, second)
    back = Change("not loadable", puts={"alpha": first.name}, override=True, withdraws={"alpha": second.name})
    manifest = router.publish(back)
    assert (manifest.routes["alpha"].adapter, manifest.withdrawn) == (first.name, {"alpha": second.name})
    assert router.publish(back).number == manifest.number
    manifest = start().publish(learned(second))
    assert (manifest.routes["alpha"].adapter, manifest.withdrawn) == (second.name, {})


def test_withdrawing_keeps_the_sums(start: Callable[[], Router], add: Callable[..., Adapter]) -> None:
    router = start()
    router.observe(observation({P0: (0, 2)}, of("alpha", range(2))))
    adapter = add("alpha")
    seal_and_publish(router, adapter)
    manifest = router.publish(Change("not loadable", withdraws={"alpha": adapter.name}))
    assert (manifest.routes, manifest.withdrawn, router.counts()) == ({}, {"alpha": adapter.name}, {"alpha": 2})
    assert router.publish(learned(adapter)).routes["alpha"].adapter == adapter.name


def test_pins_hold_against_what_is_learned_and_not_against_commands(
    start: Callable[[], Router], add: Callable[..., Adapter]
) -> None:
    router = start()
    router.observe(observation({P0: (0, 2)}, of("alpha", range(2))))
    first, second = add("alpha"), add("alpha", 2)
    seal_and_publish(router, first)
    assert router.publish(Change("pin", pins={"alpha": True})).routes["alpha"].pinned
    router.observe(observation({P0: (2, 3)}, of("alpha", [2])))
    assert seal_and_publish(router, second).routes["alpha"].adapter == first.name
    forced = router.publish(learned(second, override=True)).routes["alpha"]
    assert (forced.adapter, forced.pinned) == (second.name, True)
    assert not router.publish(Change("unpin", pins={"alpha": False})).routes["alpha"].pinned


def test_unknown_names(start: Callable[[], Router], add: Callable[..., Adapter]) -> None:
    router = start()
    router.observe(observation({P0: (0, 2)}, [("alpha", 0), ("beta", 0)]))
    adapter = add("alpha")
    with pytest.raises(UnknownDomain, match="not published"):
        router.publish(Change("pin", pins={"alpha": True}))
    with pytest.raises(UnknownDomain, match="belongs to"):
        router.publish(Change("wrong", puts={"beta": adapter.name}))


# -- restarts ---------------------------------------------------------------------------------------------------------


def test_a_restart_goes_back_to_the_snapshot_and_on_exactly(
    start: Callable[[], Router], registry: Registry, add: Callable[..., Adapter]
) -> None:
    router = start()
    rows = [*of("alpha", range(14)), *of("beta", range(13))]
    router.observe(observation({P0: (0, 14)}, rows[:14]))
    seal_and_publish(router, add("alpha"))
    router.observe(observation({P0: (14, 20), P1: (0, 3)}, rows[14:20]))
    assert dict(router.view().durable) == {P0: 14}
    router = start()
    assert (dict(router.observed()), dict(router.view().durable)) == ({P0: 14}, {P0: 14})
    assert (router.counts(), router.examples()) == ({"alpha": 14}, {"alpha": 14})
    assert not router.observe(observation({P0: (20, 27)}, rows[20:])).applied
    assert router.observe(observation({P0: (14, 27), P1: (0, 3)}, rows[14:])).applied
    seal_and_publish(router, add("beta"))
    close(served(registry).weight_DK, batch(rows, ["alpha", "beta"]))


def test_a_view_says_from_which_runs_its_snapshot_comes(
    start: Callable[[], Router], add: Callable[..., Adapter]
) -> None:
    router = start()
    first = router.view()
    assert (first.snapshot, first.runs, first.fences) == (0, (), {})
    router.observe(observation({P0: (0, 2)}, of("alpha", range(2))))
    seal_and_publish(router, add("alpha"))
    second = router.view(known=first.snapshot)
    assert [run.name for run in second.runs] == [first.run] and second.snapshot == 2
    assert router.view(known=2).fences is None
    third = start().view()
    assert (third.run == first.run, third.runs, third.lineage) == (False, second.runs, second.lineage)
    assert third.follows(second.lineage, first.run, 2) and third.follows(second.lineage, first.run, 1)
    assert not third.follows(second.lineage, first.run, 3), "one that the router does not know of"
    assert not third.follows("another", first.run, 1) and not third.follows(second.lineage, third.run, 1)


def test_a_router_that_was_replaced_commits_nothing(start: Callable[[], Router], add: Callable[..., Adapter]) -> None:
    zombie, router = start(), start()
    for each in (zombie, router):
        each.observe(observation({P0: (0, 2)}, of("alpha", range(2))))
    with pytest.raises(StaleWriter):
        zombie.seal("alpha", 1, {P0: 2})
    seal_and_publish(router, add("alpha"))
    with pytest.raises(StaleWriter):
        zombie.publish(Change("pinned", pins={"alpha": True}))


@pytest.mark.parametrize(("digest", "refused"), [("c" * 64, True), ("b" * 64, False), ("", False)])
def test_the_sums_of_another_base_are_refused(
    start: Callable[[], Router], registry: Registry, add: Callable[..., Adapter], digest: str, refused: bool
) -> None:
    router = start()
    router.observe(observation({P0: (0, 3)}, of("alpha", range(3))))
    seal_and_publish(router, add("alpha"))

    def other() -> Router:
        base = BaseRevision(model="/models/other", digest=digest)
        return Router(registry, base, RouterOptions(ridge=RIDGE, background=False))

    if refused:
        with pytest.raises(OtherHome, match=r"made with base tiny \(bbbbbbbb\), this system runs with other \(cccc"):
            other()
    else:
        assert other().counts() == {"alpha": 3}


def test_another_ridge_and_weighting_hold_for_the_sums_there_are(
    start: Callable[[], Router], registry: Registry, add: Callable[..., Adapter]
) -> None:
    router = start()
    rows = [*of("alpha", range(30)), *of("beta", range(6))]
    router.observe(observation({P0: (0, 36)}, rows))
    seal_and_publish(router, add("alpha"))
    base = BaseRevision(model="tiny", digest="b" * 64)
    other = Router(registry, base, RouterOptions(ridge=50.0, head="inverse_frequency", background=False))
    seal_and_publish(other, add("beta"))
    expected = StreamingRidge(DIM, 50.0, head="inverse_frequency", fingerprint="f")
    expected.observe(features(rows), [domain for domain, _ in rows])
    close(served(registry).weight_DK, expected.weights().weight_DK)


def test_tidying_changes_nothing_but_files(start: Callable[[], Router], add: Callable[..., Adapter]) -> None:
    router = start()
    for version in range(1, 9):
        router.observe(observation({P0: (2 * version - 2, 2 * version)}, of("alpha", [2 * version, 2 * version + 1])))
        seal_and_publish(router, add("alpha", version))
    before = (router.counts(), router.examples(), router.fates(keys(of("alpha", range(20)), 50)))
    router.tidy()
    router.publish(Change("pinned", pins={"alpha": True}))
    again = start()
    assert (again.counts(), again.examples(), again.fates(keys(of("alpha", range(20)), 50))) == before
