"""The router: every example counted once, whatever is sent again, and equal to the batch solve over the same rows."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pytest

from actors.change import Change
from actors.errors import NotCaughtUp, OtherHome, UnknownDomain
from actors.observation import Observation, example_digest
from actors.router import Router
from learning.errors import FingerprintMismatch
from learning.rls import RouterWeights, StreamingRidge
from learning.statistics import Statistics
from registry.adapters import Adapter, AdapterFacts
from registry.errors import RegistryError
from registry.manifest import BaseRevision
from registry.registry import Registry
from streaming.source import TopicPartition
from tests.actors.house import peft_folder

P0, P1 = TopicPartition("stream", 0), TopicPartition("stream", 1)
DIM, RIDGE = 9, 2.0

Row = tuple[str, int]
"""A domain and the number of one of its examples."""


def features(rows: Sequence[Row]) -> np.ndarray:
    return np.stack([np.random.default_rng([ord(domain[0]), number]).normal(size=DIM) for domain, number in rows])


def observation(
    spans: dict[TopicPartition, tuple[int, int]],
    rows: Sequence[Row],
    held_out: Sequence[Row] = (),
    fingerprint: str = "f",
) -> Observation:
    digests: dict[str, list[bytes]] = {}
    for domain, number in (*rows, *held_out):
        digests.setdefault(domain, []).append(example_digest(domain, str(number)))
    statistics = Statistics.of(features(rows), [domain for domain, _ in rows], fingerprint) if rows else None
    return Observation(spans, {domain: tuple(known) for domain, known in digests.items()}, statistics)


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


# -- observing --------------------------------------------------------------------------------------------------------


def test_an_observation_is_applied_once(start: Callable[[], Router]) -> None:
    router = start()
    block = observation({P0: (0, 3)}, of("alpha", range(2)), of("alpha", [2]))
    receipt = router.observe(block)
    assert (receipt.applied, receipt.duplicates, dict(receipt.watermarks)) == (True, frozenset(), {P0: 3})
    assert (router.counts(), router.examples()) == ({"alpha": 2}, {"alpha": 3})
    again = router.observe(block)
    assert (again.applied, dict(again.watermarks)) == (False, {P0: 3})
    assert (router.counts(), router.examples()) == ({"alpha": 2}, {"alpha": 3})


@pytest.mark.parametrize("span", [(0, 4), (2, 4), (4, 6), (0, 3)], ids=["stale", "overlapping", "ahead", "repeated"])
def test_a_span_that_does_not_start_at_the_watermark_is_refused(
    start: Callable[[], Router], span: tuple[int, int]
) -> None:
    router = start()
    router.observe(observation({P0: (0, 3)}, of("alpha", range(3))))
    receipt = router.observe(observation({P0: span, P1: (0, 1)}, of("beta", range(2))))
    assert (receipt.applied, dict(receipt.watermarks)) == (False, {P0: 3})
    assert router.counts() == {"alpha": 3}, "a block is applied whole or not at all"


def test_no_partition_begins_in_its_middle(start: Callable[[], Router]) -> None:
    """A router that lost all it knew must not take up where a worker remembers it to have been."""
    router = start()
    receipt = router.observe(observation({P0: (150, 160)}, of("alpha", range(3))))
    assert (receipt.applied, dict(receipt.watermarks)) == (False, {})
    assert router.counts() == {}


def test_known_examples_are_named_and_the_block_is_left_out(start: Callable[[], Router]) -> None:
    router = start()
    router.observe(observation({P0: (0, 3)}, of("alpha", [0, 1]), of("alpha", [2])))
    receipt = router.observe(observation({P1: (0, 4)}, [*of("alpha", [1, 2, 5]), ("beta", 1)]))
    assert not receipt.applied
    assert receipt.duplicates == {example_digest("alpha", "1"), example_digest("alpha", "2")}
    assert (router.counts(), dict(router.watermarks())) == ({"alpha": 2}, {P0: 3})
    assert router.observe(observation({P1: (0, 4)}, [("alpha", 5), ("beta", 1)])).applied
    assert router.counts() == {"alpha": 3, "beta": 1}


def test_a_block_without_training_rows_is_remembered(start: Callable[[], Router]) -> None:
    router = start()
    assert router.observe(observation({P0: (0, 2)}, [], of("alpha", [0]))).applied
    assert (router.counts(), router.examples(), dict(router.watermarks())) == ({}, {"alpha": 1}, {P0: 2})
    assert router.observe(observation({P0: (2, 3)}, of("alpha", [0]))).duplicates


def test_other_features_are_refused_and_change_nothing(start: Callable[[], Router]) -> None:
    router = start()
    router.observe(observation({P0: (0, 1)}, of("alpha", [0])))
    with pytest.raises(FingerprintMismatch):
        router.observe(observation({P0: (1, 2)}, of("alpha", [1]), fingerprint="g"))
    assert (router.counts(), router.examples(), dict(router.watermarks())) == ({"alpha": 1}, {"alpha": 1}, {P0: 1})


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
    first = router.publish(learned(add("alpha")), {P0: len(mixed)})
    assert (first.number, set(first.routes), first.examples) == (1, {"alpha"}, {"alpha": 30, "beta": 20, "gamma": 11})
    weights = served(registry)
    assert weights.domains == ("alpha",), "what has no adapter yet is masked"
    # Masked, not left out: their rows shape the columns of those that are served.
    close(weights.weight_DK, batch(mixed, ["alpha"]))
    assert not np.allclose(weights.weight_DK, batch(alpha, ["alpha"]))
    router.publish(learned(add("gamma")), {})
    close(served(registry).weight_DK, batch(mixed, ["alpha", "gamma"]))


def test_publication_waits_for_the_watermarks(
    start: Callable[[], Router], registry: Registry, add: Callable[..., Adapter]
) -> None:
    router = start()
    router.observe(observation({P0: (0, 3)}, of("alpha", range(3))))
    adapter = add("alpha")
    for required in ({P0: 4}, {P0: 3, P1: 1}):
        with pytest.raises(NotCaughtUp, match="behind"):
            router.publish(learned(adapter), required)
    assert registry.current() is None
    assert router.publish(learned(adapter), {P0: 3}).number == 1


def test_an_adapter_without_examples_in_the_sums_is_not_published(
    start: Callable[[], Router], registry: Registry, add: Callable[..., Adapter]
) -> None:
    router = start()
    router.observe(observation({P0: (0, 1)}, of("alpha", [0])))
    with pytest.raises(NotCaughtUp, match="beta"):
        router.publish(learned(add("beta")), {})
    assert registry.current() is None


def test_a_rejected_adapter_is_not_published(start: Callable[[], Router], add: Callable[..., Adapter]) -> None:
    router = start()
    router.observe(observation({P0: (0, 1)}, of("alpha", [0])))
    with pytest.raises(RegistryError, match="rejected"):
        router.publish(learned(add("alpha", status="rejected")), {})


def test_a_change_that_changes_nothing_makes_no_manifest(
    start: Callable[[], Router], registry: Registry, add: Callable[..., Adapter]
) -> None:
    router = start()
    router.observe(observation({P0: (0, 1)}, of("alpha", [0])))
    adapter = add("alpha")
    router.publish(learned(adapter), {P0: 1})
    assert router.publish(learned(adapter), {P0: 1}).number == 1
    assert router.publish(Change("unpinned", domain="alpha", pinned=False), {}).number == 1


def test_rows_of_a_pinned_domain_are_in_a_snapshot_before_they_may_go(
    start: Callable[[], Router], add: Callable[..., Adapter]
) -> None:
    """The route does not change, but whoever publishes deletes the rows next: a restart must know them."""
    router = start()
    router.observe(observation({P0: (0, 2)}, of("alpha", range(2))))
    first = add("alpha")
    router.publish(learned(first), {P0: 2})
    router.publish(Change("pinned", domain="alpha", pinned=True), {})
    router.observe(observation({P0: (2, 5)}, of("alpha", range(2, 5))))
    manifest = router.publish(learned(add("alpha", 2)), {P0: 5})
    assert (manifest.number, manifest.routes["alpha"].adapter) == (3, first.name)
    again = start()
    assert (again.counts(), dict(again.watermarks())) == ({"alpha": 5}, {P0: 5})


def test_removal_leaves_no_trace(start: Callable[[], Router], registry: Registry, add: Callable[..., Adapter]) -> None:
    router = start()
    alpha, beta = of("alpha", range(12)), of("beta", range(9))
    router.observe(observation({P0: (0, 21)}, [*alpha, *beta]))
    router.publish(learned(add("alpha")), {})
    router.publish(learned(add("beta")), {})
    manifest = router.publish(Change("removed", removes=frozenset({"alpha"})), {})
    assert (set(manifest.routes), manifest.examples) == ({"beta"}, {"beta": 9})
    close(served(registry).weight_DK, batch(beta, ["beta"]))
    again = start()
    assert (again.counts(), again.examples()) == ({"beta": 9}, {"beta": 9})
    # The same examples may come again: they are unknown now.
    assert again.observe(observation({P0: (21, 33)}, alpha)).applied
    again.publish(learned(add("alpha", 2)), {P0: 33})
    close(served(registry).weight_DK, batch([*alpha, *beta], ["alpha", "beta"]))


def test_the_last_domain_may_be_removed(
    start: Callable[[], Router], registry: Registry, add: Callable[..., Adapter]
) -> None:
    router = start()
    router.observe(observation({P0: (0, 2)}, of("alpha", range(2))))
    router.publish(learned(add("alpha")), {})
    manifest = router.publish(Change("removed", removes=frozenset({"alpha"})), {})
    assert (manifest.routes, manifest.router) == ({}, None)
    again = start()
    assert (again.counts(), dict(again.watermarks())) == ({}, {P0: 2})
    assert again.observe(observation({P0: (2, 4)}, of("beta", range(2)))).applied


def test_withdrawing_keeps_the_sums(start: Callable[[], Router], add: Callable[..., Adapter]) -> None:
    router = start()
    router.observe(observation({P0: (0, 2)}, of("alpha", range(2))))
    router.publish(learned(add("alpha")), {})
    manifest = router.publish(Change("not loadable", withdraws=frozenset({"alpha"})), {})
    assert (manifest.routes, router.counts()) == ({}, {"alpha": 2})


def test_pins_hold_against_what_is_learned_and_not_against_commands(
    start: Callable[[], Router], add: Callable[..., Adapter]
) -> None:
    router = start()
    router.observe(observation({P0: (0, 2)}, of("alpha", range(2))))
    first, second = add("alpha"), add("alpha", 2)
    router.publish(learned(first), {})
    assert router.publish(Change("pin", domain="alpha", pinned=True), {}).routes["alpha"].pinned
    assert router.publish(learned(second), {}).routes["alpha"].adapter == first.name
    forced = router.publish(learned(second, override=True), {}).routes["alpha"]
    assert (forced.adapter, forced.pinned) == (second.name, True)
    assert not router.publish(Change("unpin", domain="alpha", pinned=False), {}).routes["alpha"].pinned


def test_unknown_names(start: Callable[[], Router], add: Callable[..., Adapter]) -> None:
    router = start()
    router.observe(observation({P0: (0, 2)}, [("alpha", 0), ("beta", 0)]))
    adapter = add("alpha")
    with pytest.raises(UnknownDomain, match="not published"):
        router.publish(Change("pin", domain="alpha", pinned=True), {})
    with pytest.raises(UnknownDomain, match="belongs to"):
        router.publish(Change("wrong", domain="beta", adapter=adapter.name), {})


# -- restarts ---------------------------------------------------------------------------------------------------------


def test_a_restart_goes_back_to_the_snapshot_and_on_exactly(
    start: Callable[[], Router], registry: Registry, add: Callable[..., Adapter]
) -> None:
    router = start()
    rows = [*of("alpha", range(14)), *of("beta", range(13))]
    router.observe(observation({P0: (0, 14)}, rows[:14]))
    router.publish(learned(add("alpha")), {P0: 14})
    router.observe(observation({P0: (14, 20), P1: (0, 3)}, rows[14:23]))
    assert dict(router.published_watermarks()) == {P0: 14}
    router = start()
    assert (dict(router.watermarks()), dict(router.published_watermarks())) == ({P0: 14}, {P0: 14})
    assert (router.counts(), router.examples()) == ({"alpha": 14}, {"alpha": 14})
    assert not router.observe(observation({P0: (20, 24)}, rows[23:])).applied
    assert router.observe(observation({P0: (14, 24), P1: (0, 3)}, rows[14:])).applied
    router.publish(learned(add("beta")), {P0: 24})
    close(served(registry).weight_DK, batch(rows, ["alpha", "beta"]))


def test_what_was_counted_before_a_restart_is_still_a_duplicate(
    start: Callable[[], Router], add: Callable[..., Adapter]
) -> None:
    router = start()
    router.observe(observation({P0: (0, 3)}, of("alpha", range(2)), of("alpha", [2])))
    router.publish(learned(add("alpha")), {})
    receipt = start().observe(observation({P0: (3, 6)}, of("alpha", range(3))))
    assert len(receipt.duplicates) == 3


@pytest.mark.parametrize(("digest", "refused"), [("c" * 64, True), ("b" * 64, False), ("", False)])
def test_the_sums_of_another_base_are_refused(
    start: Callable[[], Router], registry: Registry, add: Callable[..., Adapter], digest: str, refused: bool
) -> None:
    router = start()
    router.observe(observation({P0: (0, 3)}, of("alpha", range(3))))
    router.publish(learned(add("alpha")), {P0: 3})

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
    router.publish(learned(add("alpha")), {P0: 36})
    base = BaseRevision(model="tiny", digest="b" * 64)
    other = Router(registry, base, ridge=50.0, class_weighting="inverse_frequency", abstain_below=0.1)
    other.publish(learned(add("beta")), {})
    expected = StreamingRidge(DIM, 50.0, class_weighting="inverse_frequency", fingerprint="f")
    expected.observe(features(rows), [domain for domain, _ in rows])
    close(served(registry).weight_DK, expected.weights().weight_DK)
