"""The streamed router is the batch ridge solution, however its rows came in."""

import itertools
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from learning.errors import FingerprintMismatch, LearningError, SolveError, UnseenDomain
from learning.rls import RouterWeights, StreamingRidge
from learning.statistics import Statistics
from tests.learning.memory_store import MemoryStore

Rows = NDArray[np.float64]
TOLERANCE = 1e-10


def batch_predictions(rows: Rows, domains: list[str], ridge: float, weighting: str, queries: Rows) -> Rows:
    """Ridge by orthogonal factorisation of all rows at once: no Gram matrix, none of the code under test."""
    names = sorted(set(domains))
    targets = np.array([[float(domain == name) for name in names] for domain in domains])
    counts = {name: domains.count(name) for name in names}
    share = np.ones(len(rows))
    if weighting == "inverse_frequency":
        share = np.array([len(rows) / (len(names) * counts[domain]) for domain in domains])
    root = np.sqrt(share)[:, None]
    augmented = np.vstack([rows * root, np.sqrt(ridge) * np.eye(rows.shape[1])])
    padded = np.vstack([targets * root, np.zeros((rows.shape[1], len(names)))])
    solution = np.linalg.lstsq(augmented, padded, rcond=None)[0]
    return queries @ solution


def difference(found: Rows, expected: Rows) -> float:
    # Scores are near 1 where there is something to say; far below, the factorisation is the less exact of the two.
    return float(np.linalg.norm(found - expected) / max(np.linalg.norm(expected), 1e-3))


@st.composite
def streams(draw: st.DrawFn) -> tuple[Rows, list[str], float, str]:
    dim = draw(st.integers(1, 40))
    count = draw(st.integers(2, 160))
    kinds = draw(st.integers(1, 5))
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    rows = np.maximum(rng.standard_normal((count, dim)) + rng.standard_normal(dim), 0.0) + 1e-3
    if draw(st.booleans()):  # features that repeat each other
        rows[:, dim // 2 :] = rows[:, : dim - dim // 2] * rng.uniform(0.5, 2.0)
    rows *= draw(st.sampled_from([0.01, 1.0, 30.0]))
    domains = [f"d{number}" for number in rng.zipf(1.5, count) % kinds]
    ridge = draw(st.sampled_from([0.1, 1.0, 100.0]))
    return rows, domains, ridge, draw(st.sampled_from(["ridge", "inverse_frequency"]))


def cuts(data: st.DataObject, count: int, name: str) -> list[slice]:
    inner = data.draw(st.lists(st.integers(1, count - 1), unique=True, max_size=12), label=name)
    edges = [0, *sorted(inner), count]
    return [slice(first, last) for first, last in itertools.pairwise(edges)]


@settings(max_examples=150, deadline=None)
@given(stream=streams(), data=st.data())
def test_any_order_blocks_and_derivations_between_predict_as_one_batch_solve(stream, data) -> None:
    rows, domains, ridge, weighting = stream
    order = data.draw(st.permutations(range(len(rows))))
    router = StreamingRidge(rows.shape[1], ridge, head=weighting)
    for part in cuts(data, len(rows), "blocks"):
        chosen = order[part]
        router.observe(rows[chosen], [domains[index] for index in chosen])
        if data.draw(st.booleans(), label="publish"):
            router.weights()
    found = router.weights().scores(rows)
    assert difference(found, batch_predictions(rows, domains, ridge, weighting, rows)) <= TOLERANCE


@settings(max_examples=100, deadline=None)
@given(stream=streams(), data=st.data())
def test_shards_merge_into_the_whole_through_bytes(stream, data) -> None:
    rows, domains, ridge, weighting = stream

    def fresh() -> StreamingRidge:
        return StreamingRidge(rows.shape[1], ridge, head=weighting, fingerprint="f")

    whole = fresh()
    for part in cuts(data, len(rows), "shards"):
        shard = fresh()
        half = (part.start + part.stop) // 2
        for piece in (slice(part.start, half), slice(half, part.stop)):
            if piece.stop > piece.start:
                block = Statistics.of(rows[piece], domains[piece], "f")
                shard.absorb(block)
        whole.merge(StreamingRidge.from_bytes(shard.to_bytes()))
        if data.draw(st.booleans(), label="publish"):
            whole.weights()
    assert whole.counts == {name: domains.count(name) for name in sorted(set(domains))}
    found = whole.weights().scores(rows)
    assert difference(found, batch_predictions(rows, domains, ridge, weighting, rows)) <= TOLERANCE


@settings(max_examples=100, deadline=None)
@given(stream=streams(), data=st.data())
def test_a_removed_domain_leaves_what_the_others_alone_would_have_made(stream, data) -> None:
    rows, domains, ridge, weighting = stream
    gone = data.draw(st.sampled_from(sorted(set(domains))))
    router = StreamingRidge(rows.shape[1], ridge, head=weighting)
    for part in cuts(data, len(rows), "blocks"):
        router.observe(rows[part], domains[part])
        if data.draw(st.booleans(), label="publish"):
            router.weights()
    router.remove(gone)
    kept = [index for index, domain in enumerate(domains) if domain != gone]
    assert gone not in router.domains
    if not kept:
        assert router.weights().weight_DK.shape == (rows.shape[1], 0)
        return
    left = [domains[index] for index in kept]
    found = router.weights().scores(rows[kept])
    assert difference(found, batch_predictions(rows[kept], left, ridge, weighting, rows[kept])) <= TOLERANCE


@settings(max_examples=50, deadline=None)
@given(stream=streams(), data=st.data())
def test_a_state_read_back_is_the_same_bit_for_bit_and_goes_on(stream, data) -> None:
    rows, domains, ridge, weighting = stream
    router = StreamingRidge(rows.shape[1], ridge, head=weighting, fingerprint="f")
    half = len(rows) // 2
    router.observe(rows[:half], domains[:half])
    content = router.to_bytes()
    again = StreamingRidge.from_bytes(content)
    assert again.to_bytes() == content
    assert (again.ridge, again.head, again.fingerprint) == (ridge, weighting, "f")
    again.observe(rows[half:], domains[half:])
    found = again.weights().scores(rows)
    assert difference(found, batch_predictions(rows, domains, ridge, weighting, rows)) <= TOLERANCE


@settings(max_examples=50, deadline=None)
@given(
    stream=streams(),
    other=st.sampled_from([0.1, 7.0, 100.0]),
    weighting=st.sampled_from(["ridge", "inverse_frequency"]),
)
def test_a_state_read_back_under_other_settings_is_as_if_they_had_always_been_so(stream, other, weighting) -> None:
    rows, domains, ridge, written = stream
    half = len(rows) // 2

    def first_half(ridge: float, weighting: str) -> StreamingRidge:
        router = StreamingRidge(rows.shape[1], ridge, head=weighting, fingerprint="f", store=store)
        router.observe(rows[:half], domains[:half])
        router.weights()
        return router

    store = MemoryStore()
    changed = StreamingRidge.restore(first_half(ridge, written).seal(), store, ridge=other, head=weighting)
    always = StreamingRidge.restore(first_half(other, weighting).seal(), store)
    for router in (changed, always):
        router.observe(rows[half:], domains[half:])
    assert changed.to_bytes() == always.to_bytes()
    assert np.array_equal(changed.weights().weight_DK, always.weights().weight_DK)


def test_a_state_read_back_without_other_settings_keeps_its_own() -> None:
    store = MemoryStore()
    router = StreamingRidge(3, 7.0, head="inverse_frequency", store=store)
    router.observe(np.eye(3), ["a", "b", "b"])
    for changed in ({}, {"ridge": 2.0}, {"head": "ridge"}):
        again = StreamingRidge.restore(router.seal(), store, **changed)
        assert again.ridge == changed.get("ridge", 7.0)
        assert again.head == changed.get("head", "inverse_frequency")
    with pytest.raises(LearningError, match="positive number"):
        StreamingRidge.restore(router.seal(), store, ridge=-1.0)


def test_real_widths_collapse_rows_and_still_agree() -> None:
    rng = np.random.default_rng(3)
    rows = np.maximum(rng.standard_normal((2600, 384)), 0.0)
    domains = [f"d{number}" for number in rng.integers(0, 3, len(rows))]
    router = StreamingRidge(384, 10.0)
    methods = []
    for start in range(0, len(rows), 13):
        router.observe(rows[start : start + 13], domains[start : start + 13])
        if start >= 1300:
            router.weights()
            methods.append(router.derivation)
    assert set(methods) == {"cholesky", "woodbury"} and methods.count("woodbury") > 90
    assert not any(len(moments.rows()) == moments.count for moments in router._moments.values())
    expected = batch_predictions(rows, domains, 10.0, "ridge", rows)
    assert difference(router.weights().scores(rows), expected) <= TOLERANCE


def test_features_are_cast_before_the_product() -> None:
    rng = np.random.default_rng(0)
    rows = rng.standard_normal((200, 30)).astype(np.float32) + 100
    domains = ["a", "b"] * 100
    router = StreamingRidge(30, 0.1)
    router.observe(rows, domains)
    exact = rows.astype(np.float64)
    expected = batch_predictions(exact, domains, 0.1, "ridge", exact)
    assert difference(router.weights().scores(rows), expected) <= TOLERANCE


def test_equal_counts_make_both_weightings_the_same() -> None:
    rows = np.random.default_rng(0).standard_normal((40, 6))
    domains = ["a", "b"] * 20
    routers = [StreamingRidge(6, 1.0, head=kind) for kind in ("ridge", "inverse_frequency")]
    for router in routers:
        router.observe(rows, domains)
    plain, weighted = (router.weights().weight_DK for router in routers)
    assert np.allclose(plain, weighted, rtol=1e-13, atol=0)


def test_inverse_frequency_rescues_a_rare_domain() -> None:
    rng = np.random.default_rng(0)
    centres = rng.standard_normal((3, 20)) * 0.5
    counts = {"common": 2000, "frequent": 2000, "rare": 30}
    rows = np.concatenate([c + rng.standard_normal((n, 20)) for c, n in zip(centres, counts.values(), strict=True)])
    domains = [name for name, count in counts.items() for _ in range(count)]
    queries = centres[2] + rng.standard_normal((500, 20))
    hits = {}
    for kind in ("ridge", "inverse_frequency"):
        router = StreamingRidge(21, 1.0, head=kind)
        router.observe(np.hstack([rows, np.ones((len(rows), 1))]), domains)
        weights = router.weights()
        chosen = weights.scores(np.hstack([queries, np.ones((500, 1))])).argmax(axis=1)
        hits[kind] = float((chosen == weights.domains.index("rare")).mean())
    assert hits["ridge"] < 0.2 and hits["inverse_frequency"] > 0.7


def test_the_callers_arrays_are_neither_kept_nor_changed() -> None:
    rows = np.random.default_rng(0).standard_normal((10, 4))
    before = rows.copy()
    router = StreamingRidge(4, 1.0)
    router.observe(rows, ["a"] * 10)
    assert np.array_equal(rows, before)
    expected = batch_predictions(before, ["a"] * 10, 1.0, "ridge", before)
    rows[:] = np.nan
    assert np.allclose(router.weights().scores(before), expected)


def test_a_refused_block_leaves_the_state_as_it_was() -> None:
    router = StreamingRidge(3, 1.0, fingerprint="f")
    router.observe(np.ones((2, 3)), ["a", "b"])
    before = router.to_bytes()
    spoilt = np.ones((2, 3))
    spoilt[1, 2] = np.inf
    with pytest.raises(LearningError, match=r"1 of 2 rows are not finite or beyond 1e\+06, first row 1 \(domain 'b'\)"):
        router.observe(spoilt, ["a", "b"])
    with pytest.raises(LearningError, match="dimension 3, got 4"):
        router.observe(np.ones((1, 4)), ["a"])
    with pytest.raises(LearningError, match="n domain names"):
        router.observe(np.ones((2, 3)), ["a"])
    with pytest.raises(FingerprintMismatch):
        router.absorb(Statistics.of(np.ones((2, 3)), ["a", "b"], "g"))
    with pytest.raises(UnseenDomain, match="'c'"):
        router.remove("c")
    assert router.to_bytes() == before


@pytest.mark.parametrize("value", [1e200, -2e6, np.nan])
@pytest.mark.parametrize("count", [2, 40])
def test_what_a_worker_sends_is_checked_before_anything_of_it_is_added(count: int, value: float) -> None:
    """Few rows come as they are, many as their sums; a worker of another make may have let pass what this one would."""
    router = StreamingRidge(3, 1.0, fingerprint="f")
    router.observe(np.eye(3), ["a", "b", "b"])
    before = router.to_bytes()
    block = Statistics.of(np.ones((count, 3)), ["a", "b"] * (count // 2), "f")
    if block.rows_ND is not None:
        spoilt = replace(block, rows_ND=np.where(np.arange(3) == 1, value, block.rows_ND))
    else:
        assert block.sums is not None
        spoilt = replace(block, sums={**block.sums, "b": replace(block.sums["b"], sum_D=np.full(3, 50 * value))})
    with pytest.raises(LearningError, match="spoil the router"):
        router.absorb(spoilt)
    assert router.to_bytes() == before
    router.absorb(block)
    assert router.counts == {"a": 1 + count // 2, "b": 2 + count // 2}


@pytest.mark.parametrize("weighting", ["ridge", "inverse_frequency"])
@pytest.mark.parametrize("value", [np.nan, np.inf, 1e200])
def test_sums_that_are_not_finite_give_an_error_and_go_with_their_domain(value: float, weighting: str) -> None:
    rows = np.random.default_rng(0).standard_normal((30, 5))
    router = StreamingRidge(5, 1.0, head=weighting)
    router.observe(rows, ["a", "b"] * 15)
    router._domain("bad").add_rows(np.full((2, 5), value))  # as sums may be that were kept before rows were checked
    router._gram = None
    for _ in range(2):
        with np.errstate(all="ignore"), pytest.raises(SolveError, match="sums are not finite"):
            router.weights()
    router.remove("bad")
    expected = batch_predictions(rows, ["a", "b"] * 15, 1.0, weighting, rows)
    assert difference(router.weights().scores(rows), expected) <= TOLERANCE


@pytest.mark.parametrize(
    "other",
    [
        StreamingRidge(3, 1.0, fingerprint="g"),
        StreamingRidge(4, 1.0, fingerprint="f"),
        StreamingRidge(3, 2.0, fingerprint="f"),
        StreamingRidge(3, 1.0, fingerprint="f", head="inverse_frequency"),
    ],
    ids=["fingerprint", "dimension", "ridge", "weighting"],
)
def test_unlike_routers_do_not_merge(other: StreamingRidge) -> None:
    with pytest.raises(LearningError):
        StreamingRidge(3, 1.0, fingerprint="f").merge(other)


def test_a_router_does_not_merge_with_itself() -> None:
    router = StreamingRidge(3, 1.0)
    with pytest.raises(LearningError, match="itself"):
        router.merge(router)


def test_an_empty_router_has_no_columns() -> None:
    weights = StreamingRidge(3, 1.0).weights()
    assert weights.domains == () and weights.scores(np.ones((2, 3))).shape == (2, 0)


@pytest.mark.parametrize("arguments", [{"feature_dim": 0}, {"ridge": 0.0}, {"ridge": float("nan")}, {"head": "x"}])
def test_senseless_arguments_are_refused(arguments: dict) -> None:
    with pytest.raises(LearningError):
        StreamingRidge(**{"feature_dim": 3, **arguments})


def test_weights_travel_and_are_restricted() -> None:
    router = StreamingRidge(5, 1.0, fingerprint="f")
    rows = np.random.default_rng(0).standard_normal((30, 5))
    router.observe(rows, ["c", "a", "b"] * 10)
    weights = router.weights()
    again = RouterWeights.from_bytes(weights.to_bytes())
    assert again.domains == ("a", "b", "c") and again.fingerprint == "f"
    assert np.array_equal(again.weight_DK, weights.weight_DK)
    assert again.to_bytes() == weights.to_bytes()
    some = weights.restrict(["c", "a"])
    assert some.domains == ("a", "c")
    assert np.allclose(some.scores(rows), weights.scores(rows)[:, [0, 2]], rtol=1e-14)
    with pytest.raises(UnseenDomain):
        weights.restrict(["a", "z"])
    with pytest.raises(LearningError, match="expected"):
        weights.scores(rows[:, :4])


@pytest.mark.parametrize("content", [b"", b"nonsense", StreamingRidge(2, 1.0).to_bytes()[:-1] + b"\xff"])
def test_damaged_bytes_are_reported_as_such(content: bytes) -> None:
    with pytest.raises(LearningError):
        StreamingRidge.from_bytes(content)
