"""Segment files: named by content, whole or refused, readable by the format's own library."""

from pathlib import Path

import numpy as np
import pytest
import safetensors.numpy

from registry.errors import DigestMismatch, RegistryError, UnknownSegment
from registry.registry import Registry
from registry.segments import SegmentStore
from tests.registry.places import files

ARRAYS = {
    "gram": np.arange(12.0).reshape(3, 4),
    "digests": np.frombuffer(b"0123456789abcdef" * 3, dtype=np.uint8).reshape(3, 16),
    "offsets": np.array([7, -1, 3], dtype=np.int64),
    "none": np.empty((0, 5)),
    "one": np.array(4.0),
}


@pytest.fixture
def store(registry: Registry) -> SegmentStore:
    return registry.segments


def test_what_is_put_is_what_is_had(store: SegmentStore) -> None:
    name = store.put(ARRAYS)
    found = store.get(name)
    assert found.keys() == ARRAYS.keys()
    for key, array in ARRAYS.items():
        assert found[key].dtype == array.dtype and found[key].shape == array.shape
        np.testing.assert_array_equal(found[key], array)
        np.testing.assert_array_equal(store.map(name, key), array)
    for array in (store.map(name, "gram"), found["gram"]):
        with pytest.raises(ValueError, match="read-only"):
            array[0, 0] = 1.0


@pytest.mark.parametrize("damage", [b"", b"x"], ids=["cut", "other"])
def test_what_is_damaged_is_whole_again_once_it_is_put_again(store: SegmentStore, damage: bytes) -> None:
    name = store.put(ARRAYS)
    size = store.size(name)
    files(store.place(name)).write_bytes(damage * size)
    assert store.put(ARRAYS) == name
    assert store.verify(name) == size


def test_the_library_of_the_format_reads_it(store: SegmentStore) -> None:
    loaded = safetensors.numpy.load_file(store.path(store.put(ARRAYS)))
    assert all((loaded[key] == array).all() and loaded[key].shape == array.shape for key, array in ARRAYS.items())


def test_equal_content_has_one_name_and_is_written_once(store: SegmentStore) -> None:
    name = store.put(ARRAYS)
    assert store.written == store.size(name) == store.verify(name)
    transposed = {**dict(reversed(ARRAYS.items())), "gram": np.asfortranarray(ARRAYS["gram"])}
    # A bucket is not asked first whether it has it.
    times = 2 if store.place(name).storage.keeps_all else 1
    assert store.put(transposed) == name and store.written == times * store.size(name)
    assert store.put({**ARRAYS, "one": np.array(5.0)}) != name
    assert sorted(store.names()) == sorted({name, store.put({**ARRAYS, "one": np.array(5.0)})})


def test_what_can_not_be_kept_is_refused(store: SegmentStore) -> None:
    for array in (np.array(["text"]), np.array([1 + 2j]), np.array([None])):
        with pytest.raises(RegistryError, match="array 'bad': expected one of"):
            store.put({"bad": array})
    assert list(store.names()) == [] and store.written == 0


@pytest.mark.parametrize("what", ["cut", "flipped", "longer"])
def test_a_changed_file_is_never_taken_for_what_it_was(store: SegmentStore, what: str) -> None:
    name = store.put(ARRAYS)
    path = files(store.place(name))
    content = path.read_bytes()
    changed = {"cut": content[:-1], "flipped": content[:-1] + bytes([content[-1] ^ 1]), "longer": content + b"x"}
    path.write_bytes(changed[what])
    for ask in (store.get, store.verify):
        with pytest.raises(DigestMismatch, match=f"expected sha256 {name}, got"):
            ask(name)
    if what != "flipped":
        with pytest.raises(DigestMismatch, match=r"whole safetensors file|expected sha256"):
            store.map(name, "gram")


def test_what_is_not_there_is_said(store: SegmentStore) -> None:
    for ask in (store.get, store.verify, store.size, lambda name: store.map(name, "gram")):
        with pytest.raises(UnknownSegment, match="restore it from a backup"):
            ask("0" * 64)
    with pytest.raises(DigestMismatch, match="expected an array 'other'"):
        store.map(store.put(ARRAYS), "other")


def test_a_link_to_nowhere_writes_again(store: SegmentStore, tmp_path: Path) -> None:
    """A file that a sweep has removed is put again by whoever needs it."""
    name = store.put(ARRAYS)
    files(store.place(name)).unlink()
    assert store.put(ARRAYS) == name
    store.verify(name)


def test_a_commit_asks_for_segments_that_the_one_before_did_not_name(
    registry: Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In a bucket each is a request, and there are some of every domain."""
    names = [registry.segments.put({"x": np.arange(float(n))}) for n in range(1, 5)]
    asked: list[str] = []
    size = registry.segments.size
    monkeypatch.setattr(registry.segments, "size", lambda name: asked.append(name) or size(name))

    def commit_of(writer: Registry, segments: list[str]) -> None:
        writer.commit({}, segments, epoch=epoch, parent=registry.head().snapshot_digest)

    epoch = registry.begin_epoch()
    for segments, expected in ((names[:2], names[:2]), (names[:3], names[2:3]), (names[1:3], []), (names, names[::3])):
        commit_of(registry, segments)
        assert sorted(asked) == sorted(expected)
        asked.clear()
    commit_of(Registry(registry.storage), names[1:2])
    commit_of(registry, names[:2])
    assert sorted(asked) == sorted(names[:2]), "another one has put something in force meanwhile"
    with pytest.raises(UnknownSegment):
        commit_of(registry, [*names[:2], "0" * 64])
