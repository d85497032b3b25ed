"""The router over a store: what was sealed, grouped, folded, removed and read back is still the batch solution."""

import json
import random
from typing import Any, Literal

import numpy as np
import pytest
from numpy.typing import NDArray

from learning.errors import LearningError
from learning.rls import StreamingRidge
from learning.statistics import Statistics
from learning.symmetric import packed_length
from tests.learning.memory_store import MemoryStore
from tests.learning.test_rls import TOLERANCE, batch_predictions, difference

Rows = NDArray[np.float64]


class Course:
    """A router driven by chance, and beside it all rows that it should hold."""

    def __init__(self, seed: int) -> None:
        self.random, self.rng = random.Random(seed), np.random.default_rng(seed)
        self.dim = self.random.choice([1, 3, 6, 9])
        self.ridge = self.random.choice([0.1, 5.0])
        self.weighting: Any = self.random.choice(["ridge", "ridge", "inverse_frequency"])
        self.store = MemoryStore()
        self.router = self.fresh(self.store)
        self.held: list[tuple[str, Rows]] = []

    def fresh(self, store: MemoryStore | None) -> StreamingRidge:
        return StreamingRidge(self.dim, self.ridge, head=self.weighting, fingerprint="f", store=store)

    def block(self) -> tuple[Rows, list[str]]:
        count = self.random.choice([1, 2, 5, 20])
        domains = [self.random.choice("abcd") for _ in range(count)]
        rows = np.maximum(self.rng.standard_normal((count, self.dim)), 0.0) + 0.01
        self.held += [(domain, row) for domain, row in zip(domains, rows, strict=True)]
        return rows, domains

    def step(self) -> str:
        name = self.random.choice(
            ["observe", "observe", "absorb", "merge", "seal", "seal", "tidy", "restore", "remove", "without", "weights"]
        )
        getattr(self, name)()
        return name

    def observe(self) -> None:
        self.router.observe(*self.block())

    def absorb(self) -> None:
        self.router.absorb(Statistics.of(*self.block(), "f"))

    def merge(self) -> None:
        other = self.fresh(MemoryStore() if self.random.random() < 0.5 else None)
        other.observe(*self.block())
        if other._store is not None and self.random.random() < 0.5:
            other.seal()
        other.observe(*self.block())
        self.router.merge(other)

    def seal(self) -> None:
        state = self.router.seal()
        assert self.router.segments() <= set(self.store.entries)
        assert json.loads(json.dumps(state)) == state

    def tidy(self) -> None:
        while self.router.tidy():
            pass

    def restore(self) -> None:
        state = json.loads(json.dumps(self.router.seal()))
        self.router = StreamingRidge.restore(state, self.store)

    def remove(self) -> None:
        if self.router.domains:
            gone = self.random.choice(self.router.domains)
            self.router.remove(gone)
            self.held = [(domain, row) for domain, row in self.held if domain != gone]

    def without(self) -> None:
        """The copy may come to nothing: then the router goes on as if it had never been made, though it was sealed."""
        if self.router.domains:
            gone = self.random.choice(self.router.domains)
            other = self.router.without(gone)
            other.seal()
            if self.random.random() < 0.5:
                self.router = other
                self.held = [(domain, row) for domain, row in self.held if domain != gone]

    def weights(self) -> None:
        self.router.weights()

    def check(self) -> None:
        counts: dict[str, int] = {}
        for domain, _ in self.held:
            counts[domain] = counts.get(domain, 0) + 1
        assert self.router.counts == counts
        if self.held:
            rows = np.array([row for _, row in self.held])
            expected = batch_predictions(rows, [domain for domain, _ in self.held], self.ridge, self.weighting, rows)
            assert difference(self.router.weights().scores(rows), expected) <= TOLERANCE


@pytest.mark.parametrize("seed", range(120))
def test_any_course_is_the_batch_solution(seed: int) -> None:
    course = Course(seed)
    steps = []
    for _ in range(course.random.randrange(4, 40)):
        steps.append(course.step())
        if course.random.random() < 0.2:
            course.check()
    course.check()
    course.restore()
    course.check()


def filled(store: MemoryStore, *, domains: int = 12, rows: int = 8, dim: int = 16) -> StreamingRidge:
    router = StreamingRidge(dim, 1.0, fingerprint="f", store=store)
    for number in range(domains):
        features = np.random.default_rng(number).standard_normal((rows, dim))
        router.observe(features, [f"d{number:02d}"] * rows)
        router.seal()
    return router


def test_a_seal_writes_what_has_changed() -> None:
    store = MemoryStore()
    router = filled(store)
    router.tidy()
    before = store.written
    router.observe(np.ones((5, 16)), ["d03"] * 5)
    router.seal()
    assert store.written - before == 8 * (5 * 16 + 16)
    router.seal()
    assert store.written - before == 8 * (5 * 16 + 16), "nothing new, nothing written"


def test_a_start_reads_sums_of_groups_and_not_all_rows() -> None:
    store = MemoryStore()
    router = filled(store, domains=41)
    assert router.tidy() and not router.tidy()
    state = router.seal()
    store.reads.clear()
    again = StreamingRidge.restore(state, store)
    again.weights()
    rows_read = sum(len(store.entries[name]["rows"]) for name in store.reads if "rows" in store.entries[name])
    assert len(state["groups"]) == 10 and rows_read == 8, "all but the last domain lie in a group"
    assert np.allclose(again.weights().weight_DK, router.weights().weight_DK, rtol=1e-12)


def test_a_removal_leaves_no_residue_of_what_was_far_larger() -> None:
    """Subtracted from a sum, rows a hundred thousand times larger would leave few digits right of the others."""
    store = MemoryStore()
    router = filled(store)
    giant = 1e5 * np.random.default_rng(99).standard_normal((8, 16))
    router.observe(giant, ["giant"] * 8)
    router.seal()
    others = filled(store, domains=12)
    for extra in range(12, 20):
        for each in (router, others):
            each.observe(np.random.default_rng(extra).standard_normal((8, 16)), [f"d{extra:02d}"] * 8)
            each.seal()
    while router.tidy():
        pass
    router.weights()
    clean = router.without("giant")
    assert "giant" in router.domains
    queries = np.random.default_rng(5).standard_normal((30, 16))
    expected = others.weights().scores(queries)
    assert difference(clean.weights().scores(queries), expected) <= TOLERANCE
    router.remove("giant")
    assert difference(router.weights().scores(queries), expected) <= TOLERANCE


def test_a_domain_of_many_rows_is_folded_and_stays_so() -> None:
    store = MemoryStore()
    router = StreamingRidge(6, 1.0, fingerprint="f", store=store)
    rng = np.random.default_rng(0)
    rows = []
    for _ in range(40):
        rows.append(rng.standard_normal((3, 6)))
        router.observe(rows[-1], ["a"] * 3)
        router.seal()
        while router.tidy():
            pass
    generations = router.seal()["domains"]["a"]
    assert len(generations) <= 6, generations
    bound = 8 * (packed_length(6) + 6) * 5 + 8 * 7 * 4
    kept = sum(tensor.nbytes for name in router.segments() for tensor in store.entries[name].values())
    assert kept <= 2 * bound
    everything = np.concatenate(rows)
    expected = batch_predictions(everything, ["a"] * len(everything), 1.0, "ridge", everything)
    assert difference(router.weights().scores(everything), expected) <= TOLERANCE


def test_equal_rows_of_two_domains_are_two_generations() -> None:
    """They are one file, as files are named by content, and count twice all the same."""
    store = MemoryStore()
    router = StreamingRidge(4, 1.0, fingerprint="f", store=store)
    rows = np.random.default_rng(1).standard_normal((8, 4))
    for domain in ("a", "b"):
        router.observe(rows, [domain] * 8)
        router.seal()
    router.tidy()
    router.remove("a")
    expected = batch_predictions(rows, ["b"] * 8, 1.0, "ridge", rows)
    assert difference(router.weights().scores(rows), expected) <= TOLERANCE


def test_sealing_gives_memory_back() -> None:
    router = filled(MemoryStore())
    assert all(len(moments.rows()) == 0 and moments.sums is None for moments in router._moments.values())
    assert router._pending == []


def test_sealing_needs_a_store() -> None:
    router = StreamingRidge(3, 1.0)
    router.observe(np.ones((2, 3)), ["a", "b"])
    with pytest.raises(LearningError, match="expected a store"):
        router.seal()
    assert router.counts == {"a": 1, "b": 1} and not router.tidy()


@pytest.mark.parametrize("kept", [0, 1, 3])
def test_a_store_that_is_full_leaves_the_state_as_it_was(kept: int, monkeypatch: pytest.MonkeyPatch) -> None:
    store = MemoryStore()
    router = filled(store, domains=3)
    router.observe(np.random.default_rng(7).standard_normal((6, 16)), ["d00", "d01", "d09"] * 2)
    before = router.to_bytes()
    put, left = store.put, iter([True] * kept)

    def full(tensors: Any) -> str:
        if next(left, False):
            return put(tensors)
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(store, "put", full)
        with pytest.raises(OSError, match="No space"):
            router.seal()
    assert router.to_bytes() == before
    again = StreamingRidge.restore(router.seal(), store)
    assert again.to_bytes() == before


def grown(store: MemoryStore) -> tuple[StreamingRidge, Rows, list[str]]:
    """A router in groups, of which some domains have become worth folding and others a group; and all its rows."""
    router = filled(store)
    assert router.tidy()
    rows = [np.random.default_rng(number).standard_normal((8, 16)) for number in range(12)]
    domains = [f"d{number:02d}" for number in range(12) for _ in range(8)]
    for at, domain in enumerate(["d00", "d05", "d11", "x0", "x1", "x2", "x3", "x4"]):
        rows.append(np.random.default_rng(100 + at).standard_normal((8, 16)))
        domains += [domain] * 8
        router.observe(rows[-1], [domain] * 8)
        router.seal()
    return router, np.concatenate(rows), domains


def fail_at(store: MemoryStore, call: Literal["put", "get"], at: int, patch: pytest.MonkeyPatch) -> list[bool]:
    """Have the call number `at` fail, and it alone; the list says of each whether it was let through."""
    real, calls = getattr(store, call), list[bool]()

    def failing(given: Any) -> Any:
        calls.append(len(calls) + 1 != at)
        if not calls[-1]:
            raise OSError(28, "No space left on device")
        return real(given)

    patch.setattr(store, call, failing)
    return calls


@pytest.mark.parametrize("call", ["put", "get"])
def test_a_tidying_that_fails_anywhere_changes_nothing(
    call: Literal["put", "get"], monkeypatch: pytest.MonkeyPatch
) -> None:
    for at in range(1, 100):
        store = MemoryStore()
        router, rows, domains = grown(store)
        before, names = router.seal(), router.segments()
        with monkeypatch.context() as patch:
            calls = fail_at(store, call, at, patch)
            try:
                assert router.tidy()
            except OSError:
                assert (router.seal(), router.segments()) == (before, names)
        expected = batch_predictions(rows, domains, 1.0, "ridge", rows)
        for _ in range(2):  # as it was left, and once there is room again
            again = StreamingRidge.restore(json.loads(json.dumps(router.seal())), store)
            assert again.counts == router.counts == {name: domains.count(name) for name in sorted(set(domains))}
            for each in (again, router):
                assert difference(each.weights().scores(rows), expected) <= TOLERANCE
            router.tidy()
        if all(calls):
            assert at > 8
            return
    raise AssertionError("the tidying never ended")


def damages(state: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """The state of `grown`, tidied, in ways in which rows would count twice, or a later group would hide some."""
    domains, groups = state["domains"], state["groups"]
    (name, members), *others = groups
    grouped = next(d for d, entries in domains.items() if {entry[0] for entry in entries} & set(members))
    serial, count, *rest = domains[grouped][0]
    return {
        "a group twice": {**state, "groups": [*groups, groups[0]]},
        "groups that overlap": {**state, "groups": [[name, [*members, others[0][1][0]]], *others]},
        "a group of what was joined": {**state, "domains": {**domains, grouped: [[state["serial"], count, *rest]]}},
        "a domain that is missing": {**state, "domains": {d: e for d, e in domains.items() if d != grouped}},
        "a group of what is no serial": {**state, "groups": [[name, ["x"]], *others]},
        "a generation twice": {**state, "domains": {**domains, "y": [[serial, count, *rest]]}},
        "a generation of no rows": {**state, "domains": {**domains, "y": [[state["serial"], 0, *rest]]}},
        "serials that would be given again": {**state, "serial": max(members) - 1},
    }


def test_a_state_whose_rows_would_count_twice_is_refused() -> None:
    store = MemoryStore()
    router, _, _ = grown(store)
    router.tidy()
    state = {**router.seal(), "serial": 1000}
    StreamingRidge.restore(state, store)
    taken = []
    for what, damaged in damages(state).items():
        try:
            StreamingRidge.restore(damaged, store)
            taken.append(what)
        except LearningError as error:
            assert "restoring the router: expected g" in str(error), what
    assert taken == []


@pytest.mark.parametrize("entry", [[1, 2, "a", "b", "cube"], [1, 2, "a"], ["1", 2, "a", "b", "rows"]])
def test_a_damaged_state_is_reported_as_such(entry: list[Any]) -> None:
    store = MemoryStore()
    state = filled(store, domains=1).seal()
    for damaged in ({**state, "domains": {"d00": [entry]}}, {k: v for k, v in state.items() if k != "serial"}):
        with pytest.raises(LearningError, match="restoring"):
            StreamingRidge.restore(damaged, store)
