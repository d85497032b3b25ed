"""A domain's segments: whose rows count to which column of the router, and what serves beside what."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from actors.change import Change
from actors.errors import UnknownDomain
from actors.observation import Marker, Observation
from actors.router import Router
from actors.training import Trained, TrainingOrder
from learning.served_router import ServedRouter
from learning.statistics import Statistics
from registry.adapters import Adapter
from registry.manifest import column
from registry.registry import Registry
from tests.actors.router_rows import RIDGE, Row, close, features, keys, learned, of, served
from tests.actors.scene import P0, P1, Scene

Add = Callable[..., Adapter]


def watch(router: Router, rows: Sequence[Row], start: int, *ends: str) -> int:
    """Have rows counted from an offset on, and markers of domains behind them; returns where the stream ends then."""
    markers = tuple(Marker(P0, start + len(rows) + place, domain) for place, domain in enumerate(ends))
    end = start + len(rows) + len(markers)
    statistics = Statistics.of(features(rows), [domain for domain, _ in rows], "f") if rows else None
    assert router.observe(Observation({P0: (start, end)}, tuple(keys(rows, start)), markers, statistics)).applied
    return end


def of_columns(columns: dict[str, list[Row]], others: Sequence[Row] = ()) -> np.ndarray:
    """One batch solve with a column for each of these, in their sorted order; `others` belong to none."""
    rows = [row for own in columns.values() for row in own]
    target_NK = np.array([[float(row in columns[name]) for name in sorted(columns)] for row in [*rows, *others]])
    phi_ND = features([*rows, *others])
    return np.linalg.solve(phi_ND.T @ phi_ND + RIDGE * np.eye(phi_ND.shape[1]), phi_ND.T @ target_NK)


def publish(router: Router, adapter: Adapter, until: int) -> None:
    router.seal(adapter.domain, adapter.version, {P0: until})
    router.publish(learned(adapter))


def test_a_segment_has_the_rows_of_its_versions_and_no_row_from_behind_a_marker(
    start: Callable[[], Router], registry: Registry, add: Add
) -> None:
    router = start()
    old, new, beta = of("alpha", range(9)), of("alpha", range(20, 31)), of("beta", range(5))
    ended = watch(router, old, 0, "alpha")
    end = watch(router, [*new[:6], *beta], ended)
    one = add("alpha")
    publish(router, one, ended)
    assert router.segment_counts() == {"alpha": 9}, "what lies behind the marker is learned by no version yet"
    close(served(registry).weight_DK, of_columns({"alpha": [*old, *new[:6]]}, beta))
    router = start()
    end = watch(router, new[6:], end, "alpha")
    publish(router, add("alpha", 2, "accepted", 2, one.name), end)
    assert router.segment_counts() == {"alpha": 9, "alpha#2": 11}
    assert served(registry).domains == ("alpha", "alpha#2")
    close(served(registry).weight_DK, of_columns({"alpha": old, "alpha#2": new}, beta))


def test_what_no_version_has_learned_counts_with_the_last_segment_in_service(
    start: Callable[[], Router], registry: Registry, add: Add
) -> None:
    router = start()
    old, new, open_rows, beta = (of("alpha", range(a, a + 4)) for a in (0, 10, 20, 30))
    beta = [("beta", number) for _, number in beta]
    one = add("alpha")
    publish(router, one, watch(router, old, 0))
    two = add("alpha", 2, "accepted", 2, one.name)
    publish(router, two, watch(router, new, 4))
    end = watch(router, [*open_rows, *beta], 8)
    publish(router, add("beta"), end)
    columns = {"alpha": old, "alpha#2": [*new, *open_rows], "beta": beta}
    close(served(registry).weight_DK, of_columns(columns))
    router.publish(Change("back", puts={"alpha": one.name}, pins={"alpha": True}, override=True))
    assert served(registry).domains == ("alpha", "beta")
    close(served(registry).weight_DK, of_columns({"alpha": [*old, *open_rows], "beta": beta}, new))
    router.publish(Change("forth", puts={"alpha": two.name}, pins={"alpha": False}, override=True))
    close(served(registry).weight_DK, of_columns(columns))
    router.publish(Change("gone", removes={"alpha": 2}))
    assert router.counts() == {"beta": 4} and router.segment_counts() == {"beta": 4}
    close(served(registry).weight_DK, of_columns({"beta": beta}))


def test_a_rejected_version_leaves_its_rows_open(start: Callable[[], Router], registry: Registry, add: Add) -> None:
    router = start()
    old, more = of("alpha", range(4)), of("alpha", range(10, 16))
    publish(router, add("alpha"), watch(router, old, 0))
    end = watch(router, more, 4)
    router.seal("alpha", 2, {P0: end})
    router.reopen("alpha", 2)
    publish(router, add("alpha", 3, "accepted", 2, registry.numbered("alpha", 1).name), end)  # type: ignore[union-attr]
    assert router.segment_counts() == {"alpha": 4, "alpha#2": 6}


def test_a_rejected_version_from_beyond_a_marker_takes_the_marker_with_it(
    start: Callable[[], Router], registry: Registry, add: Add
) -> None:
    """Else the next would be sealed up to it, and the sums could not tell its rows from those behind."""
    router = start()
    end = watch(router, of("alpha", range(3)), watch(router, of("alpha", range(10, 14)), 0, "alpha"))
    router.seal("alpha", 1, {P0: end})
    router.reopen("alpha", 1)
    assert router.open()["alpha"].markers == {}
    statistics = Statistics.of(features(of("alpha", [20])), ["alpha"], "f")
    (key,) = keys(of("alpha", [20]), 0)
    assert router.observe(Observation({P1: (0, 1)}, (key._replace(partition=P1),), (), statistics)).applied
    seal = router.seal("alpha", 2, {P0: 5, P1: 1})
    router.publish(learned(add("alpha", 2)))
    assert router.segment_counts() == {"alpha": seal.train} and seal.train == 8


# -- random courses ---------------------------------------------------------------------------------------------------


@dataclass
class Books:
    """What a plain reader of the stream would say of one domain's rows."""

    segments: dict[int, list[Row]] = field(default_factory=dict)
    sealed: list[Row] = field(default_factory=list)
    before: list[Row] = field(default_factory=list)
    behind: list[Row] = field(default_factory=list)
    ended: int = -1
    version: int = 0
    names: dict[int, str] = field(default_factory=dict)

    def mark(self, offset: int) -> None:
        self.before, self.behind, self.ended = [*self.before, *self.behind], [], offset

    def seal(self, end: int) -> int:
        """Up to its marker if it has one."""
        self.sealed, self.before = self.before, []
        if self.ended < 0:
            return end
        return self.ended + 1

    def settle(self, segment: int, name: str) -> None:
        self.segments.setdefault(segment, []).extend(self.sealed)
        self.sealed, self.names[segment] = [], name
        self.before, self.behind, self.ended = self.behind + self.before, [], -1


class Course:
    """Random events over two domains of one partition, and what the router has to say of them."""

    def __init__(self, seed: int, start: Callable[[], Router], registry: Registry, add: Add) -> None:
        self.random = np.random.default_rng(seed)
        self.start, self.registry, self.add = start, registry, add
        self.router = start()
        self.end = self.given = 0
        self.books = {"alpha": Books(), "beta": Books()}

    def step(self) -> None:
        domain = str(self.random.choice(["alpha", "beta"]))
        getattr(self, str(self.random.choice(["count", "count", "mark", "make", "make", "restart", "reject"])))(domain)

    def count(self, domain: str) -> None:
        rows = [(domain, self.given + n) for n in range(int(self.random.integers(1, 5)))]
        self.given += len(rows)
        self.end = watch(self.router, rows, self.end)
        book = self.books[domain]
        (book.behind if book.ended >= 0 else book.before).extend(rows)

    def mark(self, domain: str) -> None:
        self.books[domain].mark(self.end)
        self.end = watch(self.router, [], self.end, domain)

    def make(self, domain: str, *, rejected: bool = False) -> None:
        book = self.books[domain]
        if not book.before:
            return
        book.version += 1
        until = book.seal(self.end)
        self.router.seal(domain, book.version, {P0: until})
        if self.random.random() < 0.5:
            self.count(domain)
        if rejected:
            self.router.reopen(domain, book.version)
            book.before, book.sealed = [*book.sealed, *book.before, *book.behind], []
            book.behind, book.ended = [], -1
            return
        segment = int(self.random.integers(1, len(book.segments) + 2))
        beside = [name for number, name in book.names.items() if number != segment]
        adapter = self.add(domain, book.version, "accepted", segment, *beside)
        self.router.publish(learned(adapter))
        book.settle(segment, adapter.name)

    def reject(self, domain: str) -> None:
        self.make(domain, rejected=True)

    def restart(self, domain: str) -> None:
        """Everything that was counted becomes durable with another domain's version first."""
        other = self.books["beta" if domain == "alpha" else "alpha"]
        if other.before:
            self.make("beta" if domain == "alpha" else "alpha")
            self.router = self.start()

    def check(self) -> None:
        columns: dict[str, list[Row]] = {}
        others: list[Row] = []
        for domain, book in self.books.items():
            waiting = [*book.sealed, *book.before, *book.behind]
            for segment, rows in book.segments.items():
                columns[column(domain, segment)] = list(rows)
            if book.segments:
                columns[column(domain, max(book.segments))] += waiting
            else:
                others += waiting
        manifest = self.registry.current()
        if manifest is None or not columns:
            return
        found = self.router._sums.served(manifest.routes)
        assert isinstance(found, ServedRouter) and found.weights.domains == tuple(sorted(columns))
        np.testing.assert_allclose(found.weights.weight_DK, of_columns(columns, others), rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize("seed", range(30))
def test_columns_are_those_of_one_batch_over_what_each_segment_learned(
    seed: int, start: Callable[[], Router], registry: Registry, add: Add
) -> None:
    course = Course(seed, start, registry, add)
    for _ in range(25):
        course.step()
        course.check()


# -- the coordinator --------------------------------------------------------------------------------------------------


@pytest.fixture
def scene() -> Iterator[Scene]:
    made = Scene()
    yield made
    made.coordinator.stop()


def segments(scene: Scene) -> dict[int, int]:
    """Version in service by segment of alpha."""
    return {number: placed.version for number, placed in scene.current.routes["alpha"].segments.items()}


def test_an_update_that_would_forget_becomes_a_segment_of_its_own(scene: Scene) -> None:
    scene.learn("alpha")
    scene.learner.forgets = 1
    scene.learn("alpha")
    assert segments(scene) == {1: 1, 2: 2} and scene.in_service()
    two = scene.registry.adapters("alpha")[1]
    assert two.facts.segment == 2 and two.facts.beside == (scene.registry.adapters("alpha")[0].name,)
    assert "segment of its own" in two.facts.reason and two.facts.figures["exam_after_exact_match"] == 0.0
    assert (scene.registry.exams[2], two.facts.exam_rows) == (b'{"own": 1}\n', 1)
    scene.learn("alpha")
    assert segments(scene) == {1: 1, 2: 3}, "the learner chose to continue the last"
    three = scene.registry.adapters("alpha")[2]
    assert (three.facts.segment, three.facts.exam_rows) == (2, 2)
    assert [segment.number for segment in scene.learner.orders[-1].segments] == [1, 2]


def test_going_back_puts_the_segments_of_that_time_in_service(scene: Scene) -> None:
    scene.learn("alpha")
    for _ in range(2):
        scene.learner.forgets = 1
        scene.learn("alpha")
    assert segments(scene) == {1: 1, 2: 2, 3: 3}
    scene.coordinator.rollback("alpha")
    assert segments(scene) == {1: 1, 2: 2}
    scene.coordinator.rollback("alpha")
    assert segments(scene) == {1: 1}
    scene.learner.forgets = 1
    scene.learn("alpha")
    assert segments(scene) == {1: 1}, "pinned"
    four = scene.registry.adapters("alpha")[3]
    assert four.facts.segment == 4, "a number that was given is not given again"
    scene.coordinator.unpin("alpha")
    assert segments(scene) == {1: 1, 4: 4}


def test_a_segment_whose_versions_were_pruned_keeps_its_number(scene: Scene) -> None:
    scene.learn("alpha")
    scene.learner.forgets = 1
    scene.learn("alpha")
    scene.coordinator.rollback("alpha")
    scene.coordinator.unpin("alpha")
    scene.learn("alpha")
    assert segments(scene) == {1: 3}
    del scene.registry.versions[scene.registry.adapters("alpha")[1].name]
    # Its rows are in the sums, under its column.
    scene.router.segment_counts = lambda: {"alpha": 3, "alpha#2": 3, "beta#7": 1}  # type: ignore[method-assign]
    scene.learner.forgets = 1
    scene.learn("alpha")
    assert segments(scene) == {1: 3, 3: 4}


def test_a_version_whose_neighbour_is_gone_is_not_gone_back_to(scene: Scene) -> None:
    scene.learn("alpha")
    scene.learner.forgets = 1
    scene.learn("alpha")
    scene.learner.continues = 1
    scene.learn("alpha")
    one, two, _ = scene.registry.adapters("alpha")
    assert segments(scene) == {1: 3, 2: 2}
    del scene.registry.versions[one.name]
    for command in (scene.coordinator.rollback, scene.coordinator.pin):
        with pytest.raises(UnknownDomain, match=f"{two.name} can't be served: it stands beside {one.name}"):
            command("alpha", two.name)
    with pytest.raises(UnknownDomain, match="no accepted version before v3"):
        scene.coordinator.rollback("alpha")
    assert segments(scene) == {1: 3, 2: 2}, "two still answers beside three"


def test_a_removed_domain_begins_with_its_first_segment(scene: Scene) -> None:
    scene.learn("alpha")
    scene.learner.forgets = 1
    scene.learn("alpha")
    scene.coordinator.remove("alpha")
    scene.tick()
    scene.learn("alpha")
    assert segments(scene) == {1: 3} and scene.learner.orders[-1].segments == ()


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ({"adapters": 2}, "further adapters"),
        ({"base_delta": Path("delta")}, "a changed base"),
        ({"state": Path("state")}, "a state"),
    ],
)
def test_domains_that_train_in_parallel_give_nothing_beyond_their_own(
    scene: Scene, more: dict[str, Any], said: str
) -> None:
    train = scene.learner.train

    def with_more(order: TrainingOrder) -> Trained:
        trained = train(order)
        changed = {**more, "adapters": trained.result.adapters * more.get("adapters", 1)}
        return replace(trained, result=replace(trained.result, **changed))

    scene.learner.train = with_more  # type: ignore[method-assign]
    scene.learn("alpha")
    (alpha,) = scene.coordinator.domains()
    assert alpha.state == "failed"
    assert f"expected one adapter, as method lora is not of one lane, got {said} as well" in alpha.detail


def test_rows_of_other_partitions_are_sealed_up_to_where_they_were_counted(scene: Scene) -> None:
    scene.send("alpha", 4, mark=True)
    scene.send("alpha", 3, to=P1)
    seal = scene.router.ledger.seal("alpha", 1, {P0: 5, P1: 1})
    assert seal.until == {P0: 5, P1: 3} and seal.train == 7
