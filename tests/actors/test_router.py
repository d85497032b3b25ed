"""The router: every example counted once, whatever is sent again, and equal to the batch solve over the same rows."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pytest

from actors.change import Change
from actors.errors import ActorError, NoLongerSealed, NotCaughtUp, OtherHome, UnknownDomain
from actors.home import take_log
from actors.ledger import Ledger
from actors.observation import Loss, Marker, Observation, RowKey, Seal, example_digest
from actors.router import Router
from learning.errors import FingerprintMismatch
from learning.rls import RouterWeights, StreamingRidge
from learning.statistics import Statistics
from registry.adapters import Adapter, AdapterFacts
from registry.errors import RegistryError, StaleWriter
from registry.manifest import BaseRevision, Manifest
from registry.registry import Registry
from streaming.source import TopicPartition
from tests.actors.house import peft_folder

P0, P1 = TopicPartition("stream", 0), TopicPartition("stream", 1)
DIM, RIDGE = 9, 2.0

Row = tuple[str, int]
"""A domain and the number of one of its examples."""


def features(rows: Sequence[Row]) -> np.ndarray:
    return np.stack([np.random.default_rng([ord(domain[0]), number]).normal(size=DIM) for domain, number in rows])


def keys(
    rows: Sequence[Row], start: int = 0, partition: TopicPartition = P0, *, held_out: bool = False
) -> list[RowKey]:
    """The rows one after another from offset `start` on."""
    digests = [example_digest(domain, str(number)) for domain, number in rows]
    return [RowKey(row[0], digests[at], partition, start + at, held_out) for at, row in enumerate(rows)]


def observation(
    spans: dict[TopicPartition, tuple[int, int]],
    rows: Sequence[Row],
    held_out: Sequence[Row] = (),
    fingerprint: str = "f",
    found: Sequence[Row] = (),
) -> Observation:
    """Rows lie in the first partition one after another: those to train on, held-out ones, and those that were lost."""
    statistics = Statistics.of(features(rows), [domain for domain, _ in rows], fingerprint) if rows else None
    partition, (start, _) = next(iter(spans.items()))
    named = [
        *keys(rows, start, partition),
        *keys(held_out, start + len(rows), partition, held_out=True),
        *keys(found, start + len(rows) + len(held_out), partition),
    ]
    return Observation(spans, tuple(named), statistics=statistics)


def seal_and_publish(router: Router, adapter: Adapter, until: dict[TopicPartition, int] | None = None) -> Manifest:
    """What the coordinator does with a domain: sealed up to where the router stands, learned, published."""
    router.seal(adapter.domain, adapter.version, until or dict(router.observed()))
    return router.publish(learned(adapter))


def of(domain: str, numbers: Iterable[int]) -> list[Row]:
    return [(domain, number) for number in numbers]


def batch(rows: Sequence[Row], domains: Sequence[str]) -> np.ndarray:
    phi_ND = features(rows)
    target_NK = np.array([[float(domain == column) for column in domains] for domain, _ in rows])
    return np.linalg.solve(phi_ND.T @ phi_ND + RIDGE * np.eye(DIM), phi_ND.T @ target_NK)


def close(found: np.ndarray, expected: np.ndarray) -> None:
    np.testing.assert_allclose(found, expected, rtol=1e-10, atol=1e-12)


@pytest.fixture
def registry(tmp_path: Path) -> Registry:
    return Registry(tmp_path / "registry", writer=True)


@pytest.fixture
def start(registry: Registry) -> Callable[[], Router]:
    """Starts a router from what is in the registry."""

    def _start() -> Router:
        base = BaseRevision(model="tiny", digest="b" * 64)
        return Router(registry, base, ridge=RIDGE, class_weighting="none", abstain_below=0.1)

    return _start


@pytest.fixture
def add(registry: Registry, tmp_path: Path) -> Callable[..., Adapter]:
    def _add(domain: str, version: int = 1, status: str = "accepted") -> Adapter:
        facts = AdapterFacts(
            domain=domain,
            version=version,
            status=status,  # type: ignore[arg-type]
            rank=4,
            base_digest="b" * 64,
            learner="lora",
            train_examples=1,
            held_out_examples=1,
            created_at=datetime.now(UTC),
        )
        folder = peft_folder(tmp_path / "trained" / f"{domain}{version}", seed=version * 100 + ord(domain[0]))
        return registry.add_adapter(domain, version, folder, facts)

    return _add


def learned(adapter: Adapter, **more: bool) -> Change:
    return Change("learned", domain=adapter.domain, adapter=adapter.name, **more)  # type: ignore[arg-type]


def served(registry: Registry) -> RouterWeights:
    manifest = registry.current()
    assert manifest is not None
    return RouterWeights.from_bytes(registry.weights(manifest))


# -- counting ---------------------------------------------------------------------------------------------------------


def test_an_observation_is_applied_once(start: Callable[[], Router]) -> None:
    router = start()
    block = observation({P0: (0, 3)}, of("alpha", range(2)), of("alpha", [2]))
    receipt = router.observe(block)
    assert (receipt.applied, dict(receipt.observed)) == (True, {P0: 3})
    assert (router.counts(), router.examples()) == ({"alpha": 2}, {"alpha": 3})
    again = router.observe(block)
    assert (again.applied, dict(again.observed)) == (False, {P0: 3})
    assert (router.counts(), router.examples()) == ({"alpha": 2}, {"alpha": 3})


@pytest.mark.parametrize("span", [(0, 4), (2, 4), (4, 6), (0, 3)], ids=["stale", "overlapping", "ahead", "repeated"])
def test_a_span_that_does_not_start_where_the_router_stands_is_refused(
    start: Callable[[], Router], span: tuple[int, int]
) -> None:
    router = start()
    router.observe(observation({P0: (0, 3)}, of("alpha", range(3))))
    receipt = router.observe(observation({P0: span, P1: (0, 1)}, of("beta", range(2))))
    assert (receipt.applied, dict(receipt.observed)) == (False, {P0: 3})
    assert router.counts() == {"alpha": 3}, "a block is applied whole or not at all"


def test_no_partition_begins_in_its_middle(start: Callable[[], Router]) -> None:
    """A router that lost all it knew must not take up where a worker remembers it to have been."""
    router = start()
    receipt = router.observe(observation({P0: (150, 160)}, of("alpha", range(3))))
    assert (receipt.applied, dict(receipt.observed)) == (False, {})
    assert router.counts() == {}


def test_a_block_with_an_example_that_was_counted_elsewhere_is_refused(start: Callable[[], Router]) -> None:
    router = start()
    router.observe(observation({P0: (0, 3)}, of("alpha", [0, 1]), of("alpha", [2])))
    rows = [*of("alpha", [1, 2, 5]), ("beta", 1)]
    assert router.fates(keys(rows, 0, P1)) == ("gone", "gone", "new", "new")
    assert not router.observe(observation({P1: (0, 4)}, rows)).applied
    assert (router.counts(), dict(router.observed())) == ({"alpha": 2}, {P0: 3})
    assert router.observe(observation({P1: (0, 4)}, [("alpha", 5), ("beta", 1)])).applied
    assert router.counts() == {"alpha": 3, "beta": 1}


def test_an_example_twice_in_one_block_is_refused(start: Callable[[], Router]) -> None:
    router = start()
    assert not router.observe(observation({P0: (0, 3)}, of("alpha", [0, 1, 0]))).applied
    assert router.counts() == {}


def test_a_block_without_training_rows_is_remembered(start: Callable[[], Router]) -> None:
    router = start()
    assert router.observe(observation({P0: (0, 2)}, [], of("alpha", [0]))).applied
    assert (router.counts(), router.examples(), dict(router.observed())) == ({}, {"alpha": 1}, {P0: 2})
    assert router.fates(keys(of("alpha", [0]), 2)) == ("gone",)


def test_other_features_are_refused_and_change_nothing(start: Callable[[], Router]) -> None:
    router = start()
    router.observe(observation({P0: (0, 1)}, of("alpha", [0])))
    with pytest.raises(FingerprintMismatch):
        router.observe(observation({P0: (1, 2)}, of("alpha", [1]), fingerprint="g"))
    assert (router.counts(), router.examples(), dict(router.observed())) == ({"alpha": 1}, {"alpha": 1}, {P0: 1})


def test_rows_that_the_statistics_do_not_hold_are_refused(start: Callable[[], Router]) -> None:
    router = start()
    block = observation({P0: (0, 2)}, of("alpha", [0]))
    with pytest.raises(ActorError, match="hold"):
        router.observe(replace(block, rows=tuple(keys(of("alpha", [0, 1])))))
    assert (router.counts(), router.examples()) == ({}, {})


def test_what_fails_halfway_is_read_back(
    start: Callable[[], Router], add: Callable[..., Adapter], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Sums that have taken a block in without the ledger would count it twice."""
    router = start()
    router.observe(observation({P0: (0, 2)}, of("alpha", range(2))))
    seal_and_publish(router, add("alpha"))
    with monkeypatch.context() as patch:
        patch.setattr(Ledger, "apply", _no_memory)
        with pytest.raises(MemoryError):
            router.observe(observation({P0: (2, 4)}, of("beta", range(2))))
    assert (router.counts(), dict(router.observed())) == ({"alpha": 2}, {P0: 2})
    assert router.observe(observation({P0: (2, 4)}, of("beta", range(2)))).applied
    assert router.counts() == {"alpha": 2, "beta": 2}


def _no_memory(*_: object) -> None:
    raise MemoryError


def test_another_log_is_refused_until_it_is_taken(start: Callable[[], Router], registry: Registry) -> None:
    router = start()
    router.observe(replace(observation({P0: (0, 2)}, of("alpha", range(2))), logs={"stream": "one"}))
    router.seal("alpha", 1, {P0: 2})
    with pytest.raises(OtherHome, match=r"expected identity one, got two.*take-log"):
        router.observe(replace(observation({P0: (2, 3)}, of("alpha", [2])), logs={"stream": "two"}))
    assert take_log(registry, "stream") == 2
    router = start()
    assert (router.counts(), dict(router.observed())) == ({"alpha": 2}, {})
    assert router.open()["alpha"].lost == (Loss(P0, 0, 1, 2),)
    again = replace(observation({P0: (0, 3)}, of("alpha", [2]), found=of("alpha", range(2))), logs={"stream": "two"})
    assert router.observe(again).applied
    assert (router.counts(), router.open()["alpha"].train, router.open()["alpha"].lost) == ({"alpha": 3}, 3, ())


# -- sealing ----------------------------------------------------------------------------------------------------------


def test_a_seal_outlives_the_router(start: Callable[[], Router]) -> None:
    router = start()
    router.observe(observation({P0: (0, 4)}, of("alpha", range(3)), of("alpha", [3])))
    seal = router.seal("alpha", 1, {P0: 4})
    assert (seal, router.seal("alpha", 1, {P0: 4})) == (Seal(1, {P0: 4}, 3, 1), seal)
    router.observe(observation({P0: (4, 6)}, of("alpha", [4, 5])))
    assert router.seal("alpha", 2, {P0: 6}) == seal, "what is sealed is learned before more is"
    router = start()
    assert router.open()["alpha"].seal == seal
    assert (router.counts(), dict(router.observed())) == ({"alpha": 3}, {P0: 4})


def test_sealing_waits_for_what_is_not_counted_yet(start: Callable[[], Router]) -> None:
    router = start()
    router.observe(observation({P0: (0, 3)}, of("alpha", range(3))))
    for until in ({P0: 4}, {P0: 3, P1: 1}):
        with pytest.raises(NotCaughtUp, match="behind"):
            router.seal("alpha", 1, until)
    with pytest.raises(UnknownDomain, match="no example to train on"):
        router.seal("beta", 1, {P0: 3})


def test_a_rejected_version_leaves_its_rows_to_the_next(start: Callable[[], Router]) -> None:
    router = start()
    router.observe(observation({P0: (0, 3)}, of("alpha", range(3))))
    router.seal("alpha", 1, {P0: 3})
    router.reopen("alpha", 1)
    described = router.open()["alpha"]
    assert (described.train, described.fresh, described.seal) == (3, 0, None)
    router.observe(observation({P0: (3, 5)}, of("alpha", [3]), of("alpha", [4])))
    assert (router.open()["alpha"].train, router.open()["alpha"].fresh) == (4, 2)
    router.reopen("alpha", 7)
    assert router.seal("alpha", 2, {P0: 5}) == Seal(2, {P0: 5}, 4, 1)


def test_only_rows_before_a_marker_can_be_closed_by_it(start: Callable[[], Router]) -> None:
    router = start()
    block = observation({P0: (0, 5)}, of("alpha", range(2)))
    router.observe(replace(block, markers=(Marker(P0, 2, "alpha"), Marker(P0, 3, "beta"))))
    router.observe(observation({P0: (5, 7)}, of("alpha", [2, 3])))
    opened = router.open()
    assert (opened["alpha"].markers, opened["alpha"].fresh, opened["alpha"].closable) == ({P0: 2}, 4, 2)
    assert (opened["beta"].markers, opened["beta"].train) == ({P0: 3}, 0)
    router.drop_markers("beta", {P0: 3})
    assert "beta" not in router.open()
    router.seal("alpha", 1, {P0: 3})
    assert (router.open()["alpha"].markers, router.open()["alpha"].fresh) == ({}, 2)


# -- losses -----------------------------------------------------------------------------------------------------------


def test_what_nobody_can_read_any_more_is_named_and_taken_when_it_comes_again(start: Callable[[], Router]) -> None:
    router = start()
    router.observe(observation({P0: (0, 5)}, of("alpha", range(4)), of("alpha", [4])))
    router.seal("alpha", 1, {P0: 5})
    assert router.lose(P0, 1, 9, frozenset({2})) == 3
    assert router.lose(P0, 1, 9, frozenset({2})) == 0, "said twice, it is lost once"
    router = start()
    described = router.open()["alpha"]
    assert described.lost == (Loss(P0, 1, 4, 3),)
    assert (described.train, described.held_out, described.seal) == (2, 0, Seal(1, {P0: 5}, 2, 0))
    assert router.unread() == (Loss(P0, 5, 8, 0),)
    assert router.fates([*keys(of("alpha", [1]), 1), *keys(of("alpha", [1]), 9)]) == ("gone", "lost")
    assert router.observe(observation({P0: (5, 10)}, of("alpha", [7]), found=of("alpha", [1]))).applied
    assert (router.counts(), router.open()["alpha"].train) == ({"alpha": 5}, 4)
    assert router.open()["alpha"].lost == (Loss(P0, 3, 4, 2),)


def test_a_seal_of_which_nothing_is_left_is_dropped(start: Callable[[], Router]) -> None:
    router = start()
    router.observe(observation({P0: (0, 3)}, of("alpha", range(2)), of("alpha", [2])))
    router.seal("alpha", 1, {P0: 3})
    router.lose(P0, 0, 2, frozenset())
    assert (router.open()["alpha"].seal, router.open()["alpha"].held_out) == (None, 1)


def test_what_was_counted_of_a_stretch_that_is_given_up_is_durable(start: Callable[[], Router]) -> None:
    """Whoever gave it up says that it has read it: a router that stood before it would take that for rows it counts."""
    router = start()
    router.observe(observation({P0: (0, 4)}, of("alpha", range(4))))
    assert router.lose(P0, 0, 3, frozenset(range(3))) == 0
    router = start()
    assert (router.observed(), router.counts()) == ({P0: 4}, {"alpha": 4})


def test_unread_stretches_that_touch_are_one(start: Callable[[], Router]) -> None:
    router = start()
    for first, end in ((0, 4), (6, 9), (4, 6), (2, 7)):
        router.lose(P0, first, end, frozenset())
    assert router.unread() == (Loss(P0, 0, 8, 0),)


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
    assert router.publish(Change("unpinned", domain="alpha", pinned=False)).number == 1


def test_a_pin_keeps_the_weights_that_are_there(
    start: Callable[[], Router], registry: Registry, add: Callable[..., Adapter]
) -> None:
    router = start()
    router.observe(observation({P0: (0, 2)}, of("alpha", range(2))))
    before = seal_and_publish(router, add("alpha"))
    router.observe(observation({P0: (2, 4)}, of("beta", range(2))))
    after = router.publish(Change("pinned", domain="alpha", pinned=True))
    assert (after.number, after.router) == (2, before.router)
    seal_and_publish(router, add("beta"))
    close(served(registry).weight_DK, batch([*of("alpha", range(2)), *of("beta", range(2))], ["alpha", "beta"]))


def test_rows_of_a_pinned_domain_are_settled(start: Callable[[], Router], add: Callable[..., Adapter]) -> None:
    """The route does not change, but the rows were learned from: they are not learned from again."""
    router = start()
    router.observe(observation({P0: (0, 2)}, of("alpha", range(2))))
    first = add("alpha")
    seal_and_publish(router, first)
    router.publish(Change("pinned", domain="alpha", pinned=True))
    router.observe(observation({P0: (2, 5)}, of("alpha", range(2, 5))))
    manifest = seal_and_publish(router, add("alpha", 2))
    assert (manifest.number, manifest.routes["alpha"].adapter) == (3, first.name)
    again = start()
    assert (again.counts(), dict(again.observed()), again.open()) == ({"alpha": 5}, {P0: 5}, {})


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
            again.publish(Change("pin", domain="alpha", adapter=refused.name, pinned=True, override=True))
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
    back = Change("not loadable", domain="alpha", adapter=first.name, override=True, withdraws={"alpha": second.name})
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
    assert router.publish(Change("pin", domain="alpha", pinned=True)).routes["alpha"].pinned
    router.observe(observation({P0: (2, 3)}, of("alpha", [2])))
    assert seal_and_publish(router, second).routes["alpha"].adapter == first.name
    forced = router.publish(learned(second, override=True)).routes["alpha"]
    assert (forced.adapter, forced.pinned) == (second.name, True)
    assert not router.publish(Change("unpin", domain="alpha", pinned=False)).routes["alpha"].pinned


def test_unknown_names(start: Callable[[], Router], add: Callable[..., Adapter]) -> None:
    router = start()
    router.observe(observation({P0: (0, 2)}, [("alpha", 0), ("beta", 0)]))
    adapter = add("alpha")
    with pytest.raises(UnknownDomain, match="not published"):
        router.publish(Change("pin", domain="alpha", pinned=True))
    with pytest.raises(UnknownDomain, match="belongs to"):
        router.publish(Change("wrong", domain="beta", adapter=adapter.name))


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
        zombie.publish(Change("pinned", domain="alpha", pinned=True))


@pytest.mark.parametrize(("digest", "refused"), [("c" * 64, True), ("b" * 64, False), ("", False)])
def test_the_sums_of_another_base_are_refused(
    start: Callable[[], Router], registry: Registry, add: Callable[..., Adapter], digest: str, refused: bool
) -> None:
    router = start()
    router.observe(observation({P0: (0, 3)}, of("alpha", range(3))))
    seal_and_publish(router, add("alpha"))

    def other() -> Router:
        base = BaseRevision(model="/models/other", digest=digest)
        return Router(registry, base, ridge=RIDGE, class_weighting="none", abstain_below=0.1)

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
    other = Router(registry, base, ridge=50.0, class_weighting="inverse_frequency", abstain_below=0.1)
    seal_and_publish(other, add("beta"))
    expected = StreamingRidge(DIM, 50.0, class_weighting="inverse_frequency", fingerprint="f")
    expected.observe(features(rows), [domain for domain, _ in rows])
    close(served(registry).weight_DK, expected.weights().weight_DK)


def test_tidying_changes_nothing_but_files(start: Callable[[], Router], add: Callable[..., Adapter]) -> None:
    router = start()
    for version in range(1, 9):
        router.observe(observation({P0: (2 * version - 2, 2 * version)}, of("alpha", [2 * version, 2 * version + 1])))
        seal_and_publish(router, add("alpha", version))
    before = (router.counts(), router.examples(), router.fates(keys(of("alpha", range(20)), 50)))
    router.tidy()
    router.publish(Change("pinned", domain="alpha", pinned=True))
    again = start()
    assert (again.counts(), again.examples(), again.fates(keys(of("alpha", range(20)), 50))) == before
