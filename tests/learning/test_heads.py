"""Every head over every grouping is what a batch makes of the same rows, however they came, moved and went."""

import json
import random
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from learning.errors import LearningError, SolveError, UnseenDomain
from learning.heads import BACKGROUND, HEADS
from learning.rls import RouterWeights, StreamingRidge
from learning.statistics import Statistics
from learning.symmetric import half_solve
from tests.learning.memory_store import MemoryStore
from tests.learning.plain_heads import Plain, Rows

TOLERANCE = 1e-10


def difference(found: Rows, expected: Rows) -> float:
    return float(np.linalg.norm(found - expected) / max(np.linalg.norm(expected), 1e-3))


class Course:
    """A router driven by chance, and beside it all rows that it should hold under the labels that they should have."""

    def __init__(self, seed: int) -> None:
        self.random, self.rng = random.Random(seed), np.random.default_rng(seed)
        self.dim = self.random.choice([1, 2, 5, 24])
        self.size = self.random.choice([0.1, 1.0, 30.0])
        self.ridge = self.random.choice([0.3, 1.0, 50.0]) * self.size**2
        self.head: Any = self.random.choice(HEADS)
        self.centres = self.rng.standard_normal((5, self.dim))
        self.store = MemoryStore()
        self.router = self.fresh(self.store)
        self.held: list[tuple[str, Rows]] = []

    def fresh(self, store: MemoryStore | None) -> StreamingRidge:
        return StreamingRidge(self.dim, self.ridge, head=self.head, fingerprint="f", store=store)

    def block(self) -> tuple[Rows, list[str]]:
        kinds = self.rng.integers(0, 5, self.random.choice([1, 3, 30]))
        rows = self.size * np.maximum(self.centres[kinds] + self.rng.standard_normal((len(kinds), self.dim)), 0.01)
        labels = ["abcde"[kind] for kind in kinds]
        self.held += list(zip(labels, rows, strict=True))
        return rows, labels

    def step(self) -> None:
        steps = [self.observe, self.observe, self.merge, self.seal, self.restore, self.derive, self.remove]
        self.random.choice([*steps, self.relabel, self.relabel, self.drop_a_copy, self.take_a_copy])()

    def observe(self) -> None:
        self.router.observe(*self.block())

    def merge(self) -> None:
        shard = self.fresh(None)
        shard.absorb(Statistics.of(*self.block(), "f"))
        shard.observe(*self.block())
        self.router.merge(StreamingRidge.from_bytes(shard.to_bytes()))

    def seal(self) -> None:
        self.router.seal()
        while self.random.random() < 0.5 and self.router.tidy():
            pass

    def restore(self) -> None:
        self.router = StreamingRidge.restore(json.loads(json.dumps(self.router.seal())), self.store)

    def derive(self) -> None:
        self.router.weights()

    def relabel(self) -> None:
        self.held = self.moved(self.router)

    def moved(self, router: StreamingRidge) -> list[tuple[str, Rows]]:
        if not router.domains:
            return self.held
        label, into = self.random.choice(router.domains), self.random.choice(["a", "b", "new"])
        if label == into:
            return self.held
        router.relabel(label, into)
        return [(into if each == label else each, row) for each, row in self.held]

    def remove(self) -> None:
        if self.router.domains:
            gone = self.random.choice(self.router.domains)
            self.router.remove(gone)
            self.held = [(label, row) for label, row in self.held if label != gone]

    def drop_a_copy(self) -> None:
        copy = self.router.copy()
        self.moved(copy)
        if copy.domains:
            copy.remove(self.random.choice(copy.domains))
        copy.weights()
        copy.seal()

    def take_a_copy(self) -> None:
        copy = self.router.copy()
        self.held = self.moved(copy)
        copy.seal()
        self.router = copy

    def check(self) -> None:
        labels = [label for label, _ in self.held]
        assert self.router.counts == {label: labels.count(label) for label in sorted(set(labels))}
        if not labels:
            return
        known = self.random.sample(sorted(set(labels)), len(set(labels)))
        taken = known[: self.random.randint(1, len(known))]
        columns = {"p": taken[::2], "q": taken[1::2]} if len(taken) > 1 else {"p": taken}
        rows = np.array([row for _, row in self.held])
        queries = np.concatenate([rows, self.size * self.rng.standard_normal((10, self.dim))])
        for named in (None, columns):
            plain = Plain(rows, labels, named or {label: [label] for label in known}, self.ridge)
            # Where one distance is taken from another it is their own digits that rounding leaves.
            whole = plain.distances(queries, rows.mean(axis=0), plain.covariance([rows]))
            near, discriminants = plain.nearness(queries), plain.scores("lda", queries)
            scale = TOLERANCE * max(np.abs(discriminants).max(), np.abs(near).max(), whole.max(), 1e-3)
            found = self.router.weights(named).scores(queries)
            if self.head == "lda":
                assert np.abs(found - discriminants).max() <= scale
            else:
                assert difference(found, plain.scores(self.head, queries)) <= TOLERANCE
            assert np.abs(self.router.distance(named).confidence(queries) - near).max() <= scale
        leverage = np.square(half_solve(self.router.factor(), queries.T)).sum(axis=0)
        assert difference(leverage, plain.leverage(queries)) <= TOLERANCE


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 2**32), steps=st.integers(2, 16))
def test_any_course_gives_every_head_as_one_batch_does(seed: int, steps: int) -> None:
    course = Course(seed)
    course.observe()
    for _ in range(steps):
        course.step()
        if course.random.random() < 0.2:
            course.check()
    course.check()
    course.restore()
    course.check()


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 2**32), head=st.sampled_from(HEADS))
def test_relabelled_is_as_if_it_had_come_so(seed: int, head: Any) -> None:
    rng = np.random.default_rng(seed)
    rows, labels = rng.standard_normal((60, 6)), [f"l{kind}" for kind in rng.integers(0, 4, 60)]
    routers = [StreamingRidge(6, 1.0, head=head) for _ in range(2)]
    routers[0].observe(rows, labels)
    routers[0].weights()
    if routers[0].counts.keys() >= {"l1", "l2"}:
        routers[0].relabel("l1", "l2")
    routers[1].observe(rows, ["l2" if label == "l1" else label for label in labels])
    one, other = (router.weights() for router in routers)
    assert one.domains == other.domains
    assert difference(one.scores(rows), other.scores(rows)) <= TOLERANCE


def test_small_steps_of_a_discriminant_stay_exact_by_woodbury() -> None:
    rng = np.random.default_rng(5)
    rows = np.maximum(rng.standard_normal((600, 160)) + 1.0, 0.0)
    labels = [f"l{kind}" for kind in rng.integers(0, 3, 600)]
    router = StreamingRidge(160, 2.0, head="lda")
    methods = []
    for start in range(0, 600, 6):
        router.observe(rows[start : start + 6], labels[start : start + 6])
        if start >= 300:
            router.weights()
            methods.append(router.derivation)
    assert methods.count("woodbury") > 40
    expected = Plain(rows, labels, {label: [label] for label in router.domains}, 2.0).scores("lda", rows)
    assert difference(router.weights().scores(rows), expected) <= TOLERANCE


def test_a_relabelling_writes_nothing_and_reads_nothing() -> None:
    store = MemoryStore()
    router = StreamingRidge(4, 1.0, store=store)
    rng = np.random.default_rng(0)
    for label in ("a", "b", "a", "c"):
        router.observe(rng.standard_normal((2, 4)), [label] * 2)
        before = router.seal()
    router.observe(rng.standard_normal((3, 4)), ["a", "b", "c"])
    rows, names, written = router._total().copy(), router.segments(), store.written
    store.reads.clear()
    router.relabel("a", "b")
    router.relabel("c", "d")
    assert (store.reads, store.written, router.segments()) == ([], written, names)
    assert router.counts == {"b": 8, "d": 3} and np.array_equal(router._total(), rows)
    after = router.seal()
    assert after["domains"]["b"][:3] == [*before["domains"]["b"], *before["domains"]["a"]]
    assert after["groups"] == before["groups"]


def test_a_rare_domain_is_found_by_a_discriminant_and_a_frequent_one_kept() -> None:
    rng = np.random.default_rng(0)
    counts = {"common": 2000, "frequent": 2000, "rare": 30}
    centres = dict(zip(counts, rng.standard_normal((3, 20)) * 0.5, strict=True))
    router = StreamingRidge(20, 1.0, head="lda")
    for name, count in counts.items():
        router.observe(centres[name] + rng.standard_normal((count, 20)), [name] * count)
    weights = router.weights()
    hits = {}
    for name, centre in centres.items():
        chosen = weights.scores(centre + rng.standard_normal((500, 20))).argmax(axis=1)
        hits[name] = float((chosen == weights.domains.index(name)).mean())
    assert hits["rare"] > 0.7 and min(hits.values()) > 0.7, hits


def test_a_single_class_says_nothing_about_a_prompt() -> None:
    router = StreamingRidge(3, 1.0, head="lda")
    router.observe(np.random.default_rng(0).standard_normal((9, 3)), ["a"] * 9)
    assert np.array_equal(router.weights().scores(np.eye(3)), np.zeros((3, 1)))
    assert np.allclose(router.distance().confidence(np.eye(3)), 0.0, atol=1e-12)


def test_classes_that_spread_nothing_are_an_error_in_words() -> None:
    router = StreamingRidge(3, 1e-6, head="lda")
    router.observe(1e4 * np.eye(3)[[0, 0, 1, 1]], ["a", "a", "b", "b"])
    with pytest.raises(SolveError, match=r"spread is .* expected more than 1e-10"):
        router.weights()
    assert router.counts == {"a": 2, "b": 2}


@pytest.mark.parametrize(
    ("columns", "error", "words"),
    [
        ({"p": ["a", "z"]}, UnseenDomain, r"over the labels \['z'\]"),
        ({"p": ["a"], "q": []}, LearningError, r"none for \['q'\]"),
        ({"p": ["a", "b"], "q": ["b"]}, LearningError, r"\['b'\] more than once"),
        ({"p": ["a", "a"]}, LearningError, r"\['a'\] more than once"),
    ],
)
def test_columns_that_make_no_sense_are_refused(columns: Any, error: type[Exception], words: str) -> None:
    router = StreamingRidge(2, 1.0)
    router.observe(np.eye(2), ["a", "b"])
    with pytest.raises(error, match=words):
        router.weights(columns)


def test_labels_that_are_not_there_or_the_same_are_not_relabelled() -> None:
    router = StreamingRidge(2, 1.0)
    router.observe(np.eye(2), ["a", "b"])
    before = router.to_bytes()
    with pytest.raises(UnseenDomain, match="'z'"):
        router.relabel("z", "a")
    for into in ("a", ""):
        with pytest.raises(LearningError, match="another label"):
            router.relabel("a", into)
    assert router.to_bytes() == before


def test_no_columns_at_all() -> None:
    router = StreamingRidge(2, 1.0, head="lda")
    router.observe(np.eye(2), ["a", "b"])
    assert router.weights({}).scores(np.eye(2)).shape == (2, 0)
    assert np.array_equal(router.distance({}).confidence(np.eye(2)), [-np.inf, -np.inf])


def test_the_background_is_nothing_to_be_near_to() -> None:
    rng = np.random.default_rng(0)
    router = StreamingRidge(3, 1.0)
    router.observe(rng.standard_normal((30, 3)), ["a", "b", BACKGROUND] * 10)
    assert router.weights().domains == (BACKGROUND, "a", "b") and router.distance().columns == (1, 2)


def test_weights_of_a_discriminant_travel_and_are_restricted() -> None:
    rng = np.random.default_rng(0)
    rows = rng.standard_normal((30, 5))
    router = StreamingRidge(5, 1.0, fingerprint="f", head="lda")
    router.observe(rows, ["c", "a", "b"] * 10)
    weights = router.weights()
    again = RouterWeights.from_bytes(weights.to_bytes())
    assert (again.head, again.domains) == ("lda", ("a", "b", "c")) and np.array_equal(again.bias_K, weights.bias_K)
    assert again.to_bytes() == weights.to_bytes() and np.any(weights.bias_K)
    some = weights.restrict(["c", "a"])
    assert np.allclose(some.scores(rows), weights.scores(rows)[:, [0, 2]], rtol=1e-14) and some.head == "lda"


@pytest.mark.parametrize(("width", "biases"), [(2, 1), (1, 2), (2, 3)])
def test_weights_of_unlike_shapes_are_refused(width: int, biases: int) -> None:
    with pytest.raises(LearningError, match="a column for each domain"):
        RouterWeights(("a", "b"), np.zeros((3, width)), "", np.zeros(biases))


def test_weights_of_an_unknown_head_are_refused() -> None:
    router = StreamingRidge(2, 1.0)
    router.observe(np.eye(2), ["a", "b"])
    content = router.weights().to_bytes().replace(b'\\"head\\": \\"ridge\\"', b'\\"head\\": \\"rodeo\\"')
    with pytest.raises(LearningError, match="head 'rodeo': expected one of"):
        RouterWeights.from_bytes(content)
