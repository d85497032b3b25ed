"""Confidence as it is defined, a threshold that keeps what it says, and one value that a replica loads."""

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from learning.abstention import (
    ABSTENTION_KINDS,
    Abstention,
    Scale,
    background_wins,
    keeping_threshold,
    lower_quantile,
)
from learning.errors import LearningError, UnseenDomain
from learning.heads import BACKGROUND, HEADS
from learning.rls import RouterWeights, StreamingRidge
from learning.served_router import ServedRouter
from learning.symmetric import packed_length
from tests.learning.plain_heads import Plain, Rows

TOLERANCE = 1e-10
DIM = 12


def stream(seed: int, labels: str = "abc", count: int = 90) -> tuple[Rows, list[str]]:
    rng = np.random.default_rng(seed)
    centres = rng.standard_normal((len(labels), DIM))
    kinds = rng.integers(0, len(labels), count)
    return np.maximum(centres[kinds] + rng.standard_normal((count, DIM)), 0.01), [labels[kind] for kind in kinds]


def router_of(rows: Rows, labels: list[str], head: Any = "ridge") -> StreamingRidge:
    router = StreamingRidge(DIM, 2.0, head=head, fingerprint="f")
    router.observe(rows, labels)
    return router


def served_by(
    router: StreamingRidge, kind: Any, held_out: Rows, keep: float = 0.9, columns: Any = None
) -> ServedRouter:
    weights = router.weights(columns)
    factor = router.factor() if kind in ("leverage", "both") else None
    distance = router.distance(columns) if kind == "mahalanobis" else None
    return ServedRouter(weights, Abstention.calibrated(kind, keep, weights, held_out, factor=factor, distance=distance))


def plain_confidence(plain: Plain, head: str, kind: str, held_out: Rows, queries: Rows) -> Rows:
    def top(rows: Rows) -> Rows:
        return plain.scores(head, rows).max(axis=1)

    def covered(rows: Rows) -> Rows:
        return -np.log(plain.leverage(rows))

    if kind == "top":
        return top(queries)
    if kind == "leverage":
        return covered(queries)
    if kind == "mahalanobis":
        return plain.nearness(queries)
    return sum((of(queries) - of(held_out).mean()) / of(held_out).std() for of in (top, covered))


@settings(max_examples=40, deadline=None)
@given(
    seed=st.integers(0, 2**32),
    kind=st.sampled_from(ABSTENTION_KINDS),
    head=st.sampled_from(HEADS),
    keep=st.sampled_from([0.5, 0.9, 0.95, 1.0]),
)
def test_streamed_and_calibrated_is_what_one_batch_defines(seed: int, kind: str, head: str, keep: float) -> None:
    rows, labels = stream(seed, "abcd")
    held_out, queries = stream(seed + 1, "abcd", 40)[0], stream(seed + 2, "abcd", 30)[0]
    router = StreamingRidge(DIM, 2.0, head=head, fingerprint="f")
    for start in range(0, len(rows), 20):
        router.observe(rows[start : start + 20], labels[start : start + 20])
        router.weights()
    columns = {"p": ["a", "b"], "q": ["c"]}  # d is in none
    served = served_by(router, kind, held_out, keep, columns)
    expected = plain_confidence(Plain(rows, labels, columns, 2.0), head, kind, held_out, queries)
    # The factor is kept in float32; everything else is exact.
    tolerance = 1e-5 if kind in ("leverage", "both") else TOLERANCE
    found = served.decide(queries)
    assert np.abs(found.confidence_N - expected).max() <= tolerance * max(1.0, np.abs(expected).max())
    kept = served.decide(held_out).keeps_N
    assert kept.sum() == {0.5: 21, 0.9: 37, 0.95: 39, 1.0: 40}[keep], "the 20th, 4th or 2nd of 40 is the last kept"
    assert served.abstention.rows == 40


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 2**32))
def test_an_exact_factor_gives_an_exact_confidence(seed: int) -> None:
    rows, labels = stream(seed)
    router = router_of(rows, labels)
    rule = Abstention("leverage", 0.9, factor=router.factor())
    weights = router.weights()
    found = rule.confidence(weights.domains, rows, weights.scores(rows))
    expected = -np.log(Plain(rows, labels, {}, 2.0).leverage(rows))
    assert np.abs(found - expected).max() <= TOLERANCE


@settings(deadline=None)
@given(
    values=st.lists(st.one_of(st.integers(-3, 3).map(float), st.just(math.nan)), min_size=1, max_size=60),
    keep=st.sampled_from([0.25, 0.5, 0.9, 0.95, 0.99, 1.0]),
)
def test_a_quantile_keeps_at_least_its_share_and_no_larger_threshold_does(values: list[float], keep: float) -> None:
    confidence = np.array(values)
    threshold = lower_quantile(confidence, 1 - keep)
    ordered = np.where(np.isnan(confidence), -np.inf, confidence)
    enough = keep * len(values) - 1e-9
    assert (ordered >= threshold).sum() >= enough
    larger = ordered[ordered > threshold]
    if keep < 1.0 and larger.size:
        assert (ordered >= larger.min()).sum() < enough
    if keep == 1.0:
        assert threshold == -math.inf


@settings(deadline=None)
@given(
    values=st.lists(st.integers(-20, 20).map(float), min_size=2, max_size=60),
    distinct=st.booleans(),
    keep=st.sampled_from([0.25, 0.5, 0.9, 0.95]),
)
def test_a_fresh_row_is_kept_with_a_chance_of_keep_and_no_larger_row_promises_it(
    values: list[float], distinct: bool, keep: float
) -> None:
    """Of n + 1 rows each is as likely to be the fresh one, and the n others set the threshold."""
    if distinct:
        values = [value + place / 100 for place, value in enumerate(values)]
    others = [np.array(values[:place] + values[place + 1 :]) for place in range(len(values))]
    thresholds = [keeping_threshold(rest, keep) for rest in others]
    kept = sum(value >= threshold for value, threshold in zip(values, thresholds, strict=True))
    can = (1 - keep) * len(values) >= 1 - 1e-9
    assert kept >= (keep * len(values) - 1e-9 if can else len(values) - 1)
    larger = [min(rest[rest > threshold], default=math.inf) for rest, threshold in zip(others, thresholds, strict=True)]
    if distinct and math.inf not in larger:
        assert sum(value >= each for value, each in zip(values, larger, strict=True)) < keep * len(values) - 1e-9


@pytest.mark.parametrize(
    ("count", "keep", "place"),
    [(1, 0.5, 1), (18, 0.95, 1), (38, 0.95, 1), (39, 0.95, 2), (295, 0.995, 1), (399, 0.995, 2), (1024, 0.95, 51)],
)
def test_of_few_rows_the_least_sure_ones_set_the_threshold(count: int, keep: float, place: int) -> None:
    confidence = np.random.default_rng(count).permutation(count).astype(float)
    assert keeping_threshold(confidence, keep) == place - 1
    assert keeping_threshold(np.append(confidence[:-1], math.nan), keep) == (
        -math.inf if place == 1 else np.sort(confidence[:-1])[place - 2]
    )
    assert keeping_threshold(confidence, 1.0) == keeping_threshold(confidence[:0], keep) == -math.inf


@pytest.mark.parametrize("kind", ABSTENTION_KINDS)
def test_without_held_out_rows_everything_is_kept_and_that_is_said(kind: Any) -> None:
    rows, labels = stream(0)
    served = served_by(router_of(rows, labels), kind, np.empty((0, DIM)))
    assert (served.abstention.rows, served.abstention.threshold) == (0, -math.inf)
    assert served.decide(100 * rows).keeps_N.all()


@pytest.mark.parametrize("kind", ABSTENTION_KINDS)
@pytest.mark.parametrize("count", [1, 2, 9])
def test_few_held_out_rows_are_all_kept(kind: Any, count: int) -> None:
    rows, labels = stream(0)
    held_out = stream(1)[0][:count]
    served = served_by(router_of(rows, labels), kind, held_out, keep=0.9)
    decisions = served.decide(held_out)
    assert decisions.keeps_N.all()
    assert served.abstention.threshold == decisions.confidence_N.min()


@pytest.mark.parametrize("kind", ABSTENTION_KINDS)
def test_a_prompt_without_a_number_is_never_kept(kind: Any) -> None:
    rows, labels = stream(0)
    router = router_of(rows, labels)
    for held_out, keep in ((rows, 0.9), (rows, 1.0), (rows[:0], 0.9)):
        queries = np.array([[np.nan] * DIM, rows[0]])
        decisions = served_by(router, kind, held_out, keep).decide(queries)
        assert decisions.keeps_N.tolist()[0] is False and decisions.chosen()[0] is None


def test_a_row_of_zeros_is_covered_by_nothing() -> None:
    rows, labels = stream(0)
    for kind in ("leverage", "both"):
        decisions = served_by(router_of(rows, labels), kind, rows).decide(np.zeros((1, DIM)))
        assert np.isnan(decisions.confidence_N[0]) and not decisions.keeps_N[0]


def test_the_background_is_never_chosen_and_takes_its_prompts_from_the_domains() -> None:
    rows, labels = stream(3)
    named = [{"c": BACKGROUND}.get(label, label) for label in labels]
    for kind in ABSTENTION_KINDS:
        served = served_by(router_of(rows, named), kind, rows[np.array(named) != BACKGROUND], keep=0.8)
        decisions = served.decide(rows)
        best = decisions.scores_NK.argmax(axis=1)
        assert served.domains == ("a", "b") and decisions.domains == (BACKGROUND, "a", "b")
        assert np.array_equal(decisions.background_N, best == 0) and decisions.background_N.sum() > 10
        assert not decisions.keeps_N[decisions.background_N].any()
        assert set(decisions.chosen()) == {"a", "b", None}
        assert set(decisions.confidence_N[decisions.background_N]) == {-math.inf}
        inside = served.decide(rows[np.array(named) != BACKGROUND])
        assert inside.keeps_N.mean() >= min(0.8, 1.0 - inside.background_N.mean())


def test_only_a_background_leaves_everything_to_the_base() -> None:
    rows, _ = stream(0)
    served = served_by(router_of(rows, [BACKGROUND] * len(rows)), "top", rows[:0])
    assert served.domains == () and set(served.decide(rows).chosen()) == {None}


def test_a_tie_with_the_background_goes_to_the_domain() -> None:
    assert background_wins((BACKGROUND, "a"), np.array([[1.0, 1.0], [2.0, 1.0]])).tolist() == [False, True]


def test_scores_that_do_not_differ_are_not_divided_by_nothing() -> None:
    assert Scale.of(np.array([2.0, 2.0, np.nan])) == Scale(2.0, 1.0)
    assert Scale.of(np.array([np.nan, -np.inf])) == Scale(0.0, 1.0)
    assert Scale.of(np.array([1.0, 3.0])).apply(np.array([4.0])).tolist() == [2.0]


@pytest.mark.parametrize("kind", ABSTENTION_KINDS)
@pytest.mark.parametrize("head", HEADS)
def test_what_is_served_travels_whole(kind: Any, head: Any) -> None:
    rows, labels = stream(4)
    served = served_by(router_of(rows, labels, head), kind, rows)
    content = served.to_bytes()
    again = ServedRouter.from_bytes(content)
    assert again.to_bytes() == content
    one, other = served.decide(rows), again.decide(rows)
    assert np.array_equal(one.scores_NK, other.scores_NK) and np.array_equal(one.keeps_N, other.keeps_N)
    assert np.array_equal(one.confidence_N, other.confidence_N) and one.chosen() == other.chosen()
    assert (again.weights.head, again.abstention.rows) == (head, len(rows))
    assert (again.abstention.factor is not None) == (kind in ("leverage", "both"))


@pytest.mark.parametrize("kind", ABSTENTION_KINDS)
def test_restricted_it_decides_between_fewer_by_the_same_rule(kind: Any) -> None:
    rows, labels = stream(6, "abcd")
    named = [{"d": BACKGROUND}.get(label, label) for label in labels]
    served = served_by(router_of(rows, named), kind, rows)
    some = served.restrict(["c", "a"])
    assert some.weights.domains == (BACKGROUND, "a", "c") and some.abstention.threshold == served.abstention.threshold
    assert set(some.decide(rows).chosen()) <= {"a", "c", None}
    everything = served.restrict(["a", "b", "c"])
    assert np.array_equal(everything.decide(rows).confidence_N, served.decide(rows).confidence_N)
    if kind == "mahalanobis":
        full, fewer = served.abstention.distance, some.abstention.distance
        assert full is not None and fewer is not None
        less = full.confidence(rows) - fewer.confidence(rows)
        assert less.min() >= 0.0 and less.max() > 0.1, "b is nothing to be near to any more"
    with pytest.raises(UnseenDomain):
        served.restrict(["a", "z"])


@pytest.mark.parametrize(
    "arguments",
    [
        {"kind": "luck"},
        {"keep": 0.0},
        {"keep": 1.5},
        {"keep": math.nan},
        {"kind": "both"},
        {"kind": "leverage"},
        {"kind": "mahalanobis"},
        {"factor": np.zeros(1)},
    ],
)
def test_a_rule_that_can_not_work_is_refused(arguments: dict[str, Any]) -> None:
    with pytest.raises(LearningError, match="abstention"):
        Abstention(**{"kind": "top", "keep": 0.9, **arguments})


def test_a_distance_over_other_columns_is_refused() -> None:
    rows, labels = stream(0)
    router = router_of(rows, labels)
    with pytest.raises(LearningError, match=r"over the columns \['p'\], got one over 3"):
        Abstention.calibrated("mahalanobis", 0.9, router.weights({"p": ["a"]}), rows, distance=router.distance())


def test_a_factor_of_another_dimension_is_refused() -> None:
    rule = Abstention("leverage", 0.9, factor=np.ones(packed_length(DIM + 1)))
    with pytest.raises(LearningError, match="another dimension"):
        rule.confidence(("a",), np.ones((2, DIM)), np.ones((2, 1)))


@pytest.mark.parametrize("content", [b"", b"x" * 40, RouterWeights(("a",), np.ones((2, 1)), "f").to_bytes()])
def test_damaged_bytes_are_reported_as_such(content: bytes) -> None:
    with pytest.raises(LearningError):
        ServedRouter.from_bytes(content)


def test_a_discriminants_top_score_is_half_the_nearness_under_one_covariance() -> None:
    rows, labels = stream(8)
    plain = Plain(rows, labels, {label: [label] for label in "abc"}, 2.0)
    within, mean = plain.covariance(plain.parts), rows.mean(axis=0)
    near = np.min([plain.distances(rows, part.mean(axis=0), within) for part in plain.parts], axis=0)
    top = router_of(rows, labels, "lda").weights().scores(rows).max(axis=1)
    assert np.allclose(top, (plain.distances(rows, mean, within) - near) / 2, rtol=1e-10, atol=1e-10)
