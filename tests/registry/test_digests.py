"""The settled examples of a domain: what was added is in the set, in few files, in little memory."""

import os
import random
import resource
import tracemalloc
from collections.abc import Callable, Mapping
from hashlib import blake2b, sha256
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load, save

from registry import digests as module
from registry.digests import DigestRuns
from registry.errors import DigestMismatch, RegistryError


class SegmentStore:
    def __init__(self, root: Path) -> None:
        self.root = root
        self.mapped: list[tuple[str, str]] = []

    def put(self, tensors: Mapping[str, Any], text: Mapping[str, str] = {}) -> str:
        content = save({k: np.ascontiguousarray(v) for k, v in tensors.items()}, metadata=dict(text))
        name = sha256(content).hexdigest()
        (self.root / name).write_bytes(content)
        return name

    def get(self, name: str) -> dict[str, Any]:
        return load((self.root / name).read_bytes())

    def map(self, name: str, key: str) -> Any:
        import json

        self.mapped.append((name, key))
        with (self.root / name).open("rb") as file:
            length = int.from_bytes(file.read(8), "little")
            entry = json.loads(file.read(length))[key]
        kinds = {"U8": "u1", "I64": "<i8", "U32": "<u4"}
        return np.memmap(
            self.root / name, kinds[entry["dtype"]], "r", 8 + length + entry["data_offsets"][0], tuple(entry["shape"])
        )

    def size(self, name: str) -> int:
        return (self.root / name).stat().st_size


@pytest.fixture
def store(tmp_path: Path) -> SegmentStore:
    return SegmentStore(tmp_path)


def digests(count: int, kind: str = "") -> list[bytes]:
    return [blake2b(f"{kind}{number}".encode(), digest_size=16).digest() for number in range(count)]


def runs_of(held: DigestRuns) -> list[int]:
    return [run.count for run in held._runs]


@pytest.mark.parametrize("seed", range(3))
def test_any_course_of_additions_merges_and_restores_is_a_set(
    store: SegmentStore, monkeypatch: pytest.MonkeyPatch, seed: int
) -> None:
    monkeypatch.setattr(module, "_PART", 700)
    rng = random.Random(seed)
    odd = [bytes(16), b"\xff" * 16, b"\0" * 15 + b"\1", b"\1" + bytes(15)]
    odd += [b"\x42" * 15 + bytes([number]) for number in range(40)]
    held, known = DigestRuns.empty(store), set[bytes]()
    for _ in range(25):
        new = [rng.randbytes(16) for _ in range(rng.choice([0, 1, 256, 257, 1500]))]
        new += rng.sample(odd, rng.choice([0, 0, 3])) + rng.sample(sorted(known), min(len(known), rng.choice([0, 9])))
        before, held = held, held.plus(rng.sample(new, len(new)))
        assert before.contains(new) == [digest in known for digest in new]
        known.update(new)
        if rng.random() < 0.3:
            held = held.merged()
        if rng.random() < 0.3:
            held = DigestRuns.restore(store, held.names)
        asked = rng.sample(sorted(known), min(len(known), 300)) + odd + [rng.randbytes(16) for _ in range(300)]
        assert held.contains(asked) == [digest in known for digest in asked]
    joined = held.plus(known).merged()
    assert joined.count == len(known) and all(joined.contains(sorted(known)))
    assert len(joined.names) > 10


def test_nothing_is_in_the_empty_set(store: SegmentStore) -> None:
    empty = DigestRuns.restore(store, DigestRuns.empty(store).names)
    assert (empty.names, empty.count, empty.merged()) == ((), 0, empty)
    assert empty.contains(digests(3)) == [False] * 3
    assert empty.contains([]) == [] and empty.plus([]) is empty


def test_about_one_absent_digest_in_a_hundred_costs_a_file(store: SegmentStore) -> None:
    held = DigestRuns.empty(store).plus(digests(20_000))
    store.mapped.clear()
    assert not any(held.contains([digest])[0] for digest in digests(5_000, "absent"))
    assert 0 < store.mapped.count((held.names[0], "digests")) < 0.015 * 5_000


def test_an_addition_writes_what_is_new_and_leaves_the_rest(store: SegmentStore) -> None:
    held = DigestRuns.empty(store).plus(digests(100_000))
    store.mapped.clear()
    more = held.plus(digests(300, "new"))
    assert more.names[:-1] == held.names and not store.mapped
    assert store.size(more.names[-1]) < 300 * 20


def test_runs_stay_few_and_a_digest_is_seldom_written_again(store: SegmentStore) -> None:
    held, written = DigestRuns.empty(store), 0
    for number in range(300):
        held = held.plus(digests(10, f"{number}."))
        merged = held.merged()
        if merged is not held:
            written += runs_of(merged)[-1]
        held = merged
        assert all(run >= 2 * sum(runs_of(held)[index + 1 :]) for index, run in enumerate(runs_of(held)))
    assert held.count == 3_000 and len(held.names) <= 6
    assert written <= 3_000 * np.log(300) / np.log(1.5)
    assert held.merged() is held


def test_an_example_in_two_runs_is_one_after_their_merge(store: SegmentStore) -> None:
    twice = DigestRuns.empty(store).plus(digests(10)).plus(digests(10))
    assert (twice.count, twice.merged().count) == (20, 10)


def test_a_merge_holds_a_slice_not_the_set(store: SegmentStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_PART", 2_048)

    def passing(count: int) -> int:
        """Bytes held in passing while `count` digests are joined with as many others, beside what is held after."""
        held = DigestRuns.empty(store).plus(digests(count)).plus(digests(count, "more"))
        tracemalloc.start()
        try:
            merged = held.merged()
            after, peak = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
        assert merged.count == 2 * count
        return peak - after

    assert passing(40_000) < 1.3 * passing(10_000)


def test_a_start_reads_filters_and_holds_less_than_two_bytes_a_digest(store: SegmentStore) -> None:
    raw = np.random.default_rng(0).bytes(16 * 1_000_000)
    names = DigestRuns.empty(store).plus([raw[start : start + 16] for start in range(0, len(raw), 16)]).names
    store.mapped.clear()
    tracemalloc.start()
    try:
        held = DigestRuns.restore(store, names)
        resident, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert held.count == 1_000_000
    assert resident < 1.5 * 1_000_000 and peak < 2 * 1_000_000
    assert not any(key == "digests" for _, key in store.mapped)


def test_a_changed_byte_is_noticed_before_an_answer_rests_on_it(store: SegmentStore) -> None:
    """Bytes all over the file are turned in turn: what is restored answers rightly or not at all."""
    known, absent = digests(600), digests(400, "absent")
    whole = DigestRuns.empty(store).plus(known)
    (name,) = whole.names
    sound = (store.root / name).read_bytes()
    data = 8 + int.from_bytes(sound[:8], "little")
    for place in range(data, len(sound), 97):
        damaged = bytearray(sound)
        damaged[place] ^= 0x10
        (store.root / name).write_bytes(damaged)
        with pytest.raises(DigestMismatch, match=name):
            held = DigestRuns.restore(store, [name])
            assert held.contains(absent) == [False] * 400
            held.contains(known)
        with pytest.raises(DigestMismatch, match=name):
            DigestRuns.restore(store, [name]).plus(absent).merged()
    (store.root / name).write_bytes(sound)
    assert all(DigestRuns.restore(store, [name]).contains(known))


def test_no_descriptor_stays_open(store: SegmentStore) -> None:
    open_files = len(os.listdir("/proc/self/fd"))
    domains = [DigestRuns.empty(store).plus(digests(2, f"{n}.")).plus(digests(5, f"{n}:")) for n in range(150)]
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (open_files + 20, hard))
    try:
        again = [DigestRuns.restore(store, held.names) for held in domains]
        assert all(all(held.contains(digests(5, f"{n}:"))) for n, held in enumerate(again))
        assert all(held.merged().count == 7 for held in again)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert len(os.listdir("/proc/self/fd")) <= open_files


@pytest.mark.parametrize("choose", [lambda n: n[1:], lambda n: n[::-1], lambda n: (n[0], *n[2:])])
def test_names_that_leave_a_part_out_are_refused(
    store: SegmentStore, monkeypatch: pytest.MonkeyPatch, choose: Callable[[tuple[str, ...]], tuple[str, ...]]
) -> None:
    monkeypatch.setattr(module, "_PART", 100)
    names = DigestRuns.empty(store).plus(digests(400)).names
    assert len(names) == 4
    with pytest.raises(DigestMismatch, match="expected the first part of a run"):
        DigestRuns.restore(store, choose(names))


@pytest.mark.parametrize("digest", [b"", b"short", bytes(17)])
def test_a_digest_of_another_length_is_refused(store: SegmentStore, digest: bytes) -> None:
    with pytest.raises(RegistryError, match="expected 16 bytes each"):
        DigestRuns.empty(store).plus([bytes(16), digest])
    with pytest.raises(RegistryError, match="expected 16 bytes each"):
        DigestRuns.empty(store).contains([digest])
