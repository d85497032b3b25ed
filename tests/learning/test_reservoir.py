"""A sample that depends on what came, not on how: the smallest digests of each label, whatever the order."""

import json
from hashlib import sha256
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from learning.errors import FingerprintMismatch, LearningError, UnseenDomain, UnusableFeatures
from learning.reservoir import Reservoir
from tests.learning.memory_store import MemoryStore

DIM = 3


def digest(number: int) -> bytes:
    return sha256(number.to_bytes(8, "big")).digest()[:16]


def row(number: int) -> list[float]:
    return [float(number), 1.0, -float(number)]


def offer(reservoir: Reservoir, *items: tuple[str, int]) -> None:
    labels, numbers = [label for label, _ in items], [number for _, number in items]
    reservoir.add(np.array([row(number) for number in numbers]), labels, [digest(number) for number in numbers])


def contents(reservoir: Reservoir) -> dict[str, list[int]]:
    rows, labels = reservoir.choose(list(reservoir.counts), 10**6)
    found: dict[str, list[int]] = {}
    for label, kept in zip(labels, rows, strict=True):
        assert kept.tolist() == row(int(kept[0]))
        found.setdefault(label, []).append(int(kept[0]))
    return found


def smallest(items: list[tuple[str, int]], count: int) -> dict[str, list[int]]:
    return {
        label: sorted({number for each, number in items if each == label}, key=digest)[:count]
        for label in sorted({label for label, _ in items})
    }


items_drawn = st.lists(st.tuples(st.sampled_from("ab"), st.integers(0, 30)), min_size=1, max_size=40)


@settings(max_examples=60, deadline=None)
@given(items=items_drawn, data=st.data(), rows=st.integers(1, 8))
def test_any_order_blocks_and_shards_keep_the_smallest_digests(items: Any, data: st.DataObject, rows: int) -> None:
    store = MemoryStore()
    whole = Reservoir(DIM, rows, store=store)
    shuffled = data.draw(st.permutations(items))
    at = 0
    while at < len(shuffled):
        size = data.draw(st.integers(1, 8))
        block = shuffled[at : at + size]
        at += size
        match data.draw(st.sampled_from(["add", "merge", "seal", "restore", "twice"])):
            case "merge":
                shard = Reservoir(DIM, rows)
                offer(shard, *block)
                whole.merge(shard)
            case "restore":
                offer(whole, *block)
                whole = Reservoir.restore(json.loads(json.dumps(whole.seal())), store)
            case "seal":
                offer(whole, *block)
                whole.seal()
            case "twice":
                offer(whole, *block)
                offer(whole, *block)
            case _:
                offer(whole, *block)
    expected = smallest(items, rows)
    assert contents(whole) == expected
    assert whole.counts == {label: len(numbers) for label, numbers in expected.items()}


@settings(max_examples=30, deadline=None)
@given(items=items_drawn, rows=st.integers(1, 8), sealed=st.booleans())
def test_relabelled_is_as_if_it_had_come_so(items: Any, rows: int, sealed: bool) -> None:
    reservoir = Reservoir(DIM, rows, store=MemoryStore())
    offer(reservoir, *items)
    if sealed:
        reservoir.seal()
    copy = reservoir.copy()
    label = items[0][0]
    into = {"a": "b", "b": "new"}[label]
    copy.relabel(label, into)
    assert contents(copy) == smallest([(into if each == label else each, number) for each, number in items], rows)
    copy.remove(into)
    copy.seal()
    assert into not in copy.counts
    assert contents(reservoir) == smallest(items, rows), "a copy leaves the other as it was"


def test_a_seal_writes_what_has_changed() -> None:
    store = MemoryStore()
    reservoir = Reservoir(DIM, 4, store=store)
    offer(reservoir, *[("a", number) for number in range(4)], *[("b", number) for number in range(4, 8)])
    reservoir.seal()
    assert reservoir.segments() == set(store.entries)
    before = store.written
    offer(reservoir, ("b", max(range(100), key=digest)))
    offer(reservoir, ("b", 5))
    store.reads.clear()
    state = reservoir.seal()
    assert store.written == before and store.reads == [], "one is too large, the other is there"
    offer(reservoir, ("b", min(range(100), key=digest)))
    assert reservoir.seal()["labels"]["a"] == state["labels"]["a"]
    assert store.written - before == 4 * (16 + 4 * DIM)
    assert reservoir.segments() < set(store.entries)


def test_a_start_reads_digests_and_a_choice_reads_rows_once() -> None:
    store = MemoryStore()
    reservoir = Reservoir(DIM, 8, store=store)
    offer(reservoir, *[(label, number) for label in "abcd" for number in range(20)])
    state = reservoir.seal()
    store.reads.clear()
    again = Reservoir.restore(state, store)
    assert all("digests" in store.entries[name] for name in store.reads)
    store.reads.clear()
    first, labels = again.choose("abcd", 12)
    assert len(store.reads) == 4 and labels == tuple("aaabbbcccddd")
    second, _ = again.choose("abcd", 12)
    assert len(store.reads) == 4 and np.array_equal(first, second)
    again.choose("abcd", 16)
    assert len(store.reads) == 8, "a larger share is read anew"


def test_the_total_is_shared_by_the_labels_and_never_passed() -> None:
    reservoir = Reservoir(DIM, 50)
    offer(reservoir, *[(label, number) for label in "abc" for number in range(40)], ("d", 7))
    rows, labels = reservoir.choose(["a", "b", "d", "unseen"], 20)
    assert labels == ("a",) * 5 + ("b",) * 5 + ("d",)
    assert [int(kept[0]) for kept in rows[:5]] == sorted(range(40), key=digest)[:5]
    rows, labels = reservoir.choose("abcd", 2)
    assert len(rows) == len(labels) == 2, "more labels than rows: the smallest digests of all"
    rows, labels = reservoir.choose([], 5)
    assert rows.shape == (0, DIM) and labels == ()


def test_another_number_of_rows_holds_from_then_on() -> None:
    store = MemoryStore()
    reservoir = Reservoir(DIM, 8, store=store)
    offer(reservoir, *[("a", number) for number in range(20)])
    state = reservoir.seal()
    fewer = Reservoir.restore(state, store, rows=3)
    assert contents(fewer) == smallest([("a", number) for number in range(20)], 3)
    offer(fewer, *[("a", number) for number in range(20, 40)])
    assert contents(fewer) == smallest([("a", number) for number in range(40)], 3)
    more = Reservoir.restore(state, store, rows=30)
    assert more.counts == {"a": 8}


def test_what_is_no_row_is_refused_and_nothing_of_it_taken() -> None:
    reservoir = Reservoir(DIM, 4)
    offer(reservoir, ("a", 1))
    with pytest.raises(UnusableFeatures):
        reservoir.add(np.array([[1.0, np.nan, 0.0]]), ["a"], [digest(2)])
    with pytest.raises(LearningError, match="dimension 3, got 2"):
        reservoir.add(np.ones((1, 2)), ["a"], [digest(2)])
    with pytest.raises(LearningError, match="digests of 16 bytes"):
        reservoir.add(np.ones((1, 3)), ["a"], [b"short"])
    with pytest.raises(LearningError, match="1 digests"):
        reservoir.add(np.ones((1, 3)), ["a"], [digest(2), digest(3)])
    with pytest.raises(UnseenDomain):
        reservoir.remove("z")
    with pytest.raises(UnseenDomain):
        reservoir.relabel("z", "a")
    for into in ("a", ""):
        with pytest.raises(LearningError, match="another label"):
            reservoir.relabel("a", into)
    with pytest.raises(LearningError, match="expected dimension and rows"):
        reservoir.merge(Reservoir(DIM, 5))
    with pytest.raises(FingerprintMismatch, match="expected fingerprint '', got 'other'"):
        reservoir.merge(Reservoir(DIM, 4, fingerprint="other"))
    with pytest.raises(LearningError, match="store"):
        reservoir.seal()
    with pytest.raises(LearningError, match="at least 1"):
        Reservoir(DIM, 0)
    assert contents(reservoir) == {"a": [1]}


@pytest.mark.parametrize("damage", [{"labels": {"a": ["nothing", "nothing"]}}, {"labels": {"a": ["x"]}}, {"rows": "x"}])
def test_a_damaged_state_is_reported_as_such(damage: dict[str, Any]) -> None:
    store = MemoryStore()
    reservoir = Reservoir(DIM, 4, store=store)
    offer(reservoir, ("a", 1))
    with pytest.raises(LearningError, match="restoring held-out rows"):
        Reservoir.restore({**reservoir.seal(), **damage}, store)


@pytest.mark.parametrize("kept", [0, 1, 2, 3])
def test_a_store_that_is_full_leaves_the_rows_as_they_were(kept: int, monkeypatch: pytest.MonkeyPatch) -> None:
    store = MemoryStore()
    reservoir = Reservoir(DIM, 4, store=store)
    offer(reservoir, ("a", 1), ("b", 2), ("b", 3))
    put, left = store.put, iter([True] * kept)

    def full(tensors: Any) -> str:
        if next(left, False):
            return put(tensors)
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(store, "put", full)
        with pytest.raises(OSError, match="No space"):
            reservoir.seal()
    expected = smallest([("a", 1), ("b", 2), ("b", 3)], 4)
    assert contents(reservoir) == expected
    assert contents(Reservoir.restore(reservoir.seal(), store)) == expected
