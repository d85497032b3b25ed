"""What is kept of trainings on their way is whole, bounded, and gone when nobody wants it: in a folder and a bucket."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from obstore.store import MemoryStore

from actors.unfinished import Unfinished
from registry.bucket import Bucket
from registry.disk import Disk
from registry.errors import StoreAway
from registry.storage import Storage


@pytest.fixture(params=["folder", "bucket"])
def storage(request: pytest.FixtureRequest, tmp_path: Path) -> Storage:
    if request.param == "folder":
        return Disk(tmp_path / "shared")
    return Bucket(MemoryStore(), "memory://shared", tmp_path / "copies")


@pytest.fixture
def unfinished(storage: Storage) -> Unfinished:
    return Unfinished(storage, 100)


def everything(storage: Storage) -> list[str]:
    return [each.key for folder in ("unfinished", "staging") for each in storage.entries(folder)]


def test_another_process_finds_what_was_kept_last(unfinished: Unfinished, storage: Storage) -> None:
    place = unfinished.of("alpha", 3)
    assert place.load() is None and unfinished.names() == []
    place.save(b"one")
    place.save(b"two")
    other = Unfinished(storage, 100)
    assert other.of("alpha", 3).load() == b"two"
    assert other.of("alpha", 2).load() is None and other.of("beta", 3).load() is None
    assert other.names() == ["alpha@v3"] and everything(storage) == ["unfinished/alpha@v3"]


def test_what_can_not_be_written_leaves_what_was_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    storage = Disk(tmp_path / "shared")
    place = Unfinished(storage, 100).of("alpha", 1)
    place.save(b"one")

    def full(*_: object) -> None:
        raise OSError("no space left")

    for call in ("write", "fsync", "replace"):
        with monkeypatch.context() as patched:
            patched.setattr(os, call, full)
            with pytest.raises(OSError, match="no space left"):
                place.save(b"two")
        assert place.load() == b"one" and everything(storage) == ["unfinished/alpha@v1"]


@pytest.mark.parametrize("method", ["keep", "read", "remove", "entries", "open"])
def test_a_store_that_is_away_is_an_os_error_with_its_words(
    unfinished: Unfinished, storage: Storage, monkeypatch: pytest.MonkeyPatch, method: str
) -> None:
    """As learners know of no registry, and go on without what they can't keep."""

    def away(*_: object) -> Iterator[Any]:
        raise StoreAway("the store is away; mend the way to it")

    monkeypatch.setattr(storage, method, away)
    with pytest.raises(OSError, match="the store is away; mend the way to it"):
        unfinished.put("alpha@v1", b"one")
        unfinished.get("alpha@v1")
        unfinished.delete("alpha@v1")
        unfinished.names()


def test_the_oldest_makes_room(tmp_path: Path) -> None:
    unfinished = Unfinished(Disk(tmp_path), 100)
    for age, (domain, size) in enumerate([("alpha", 40), ("beta", 30), ("gamma", 30), ("alpha", 45)]):
        unfinished.of(domain, 1).save(b"x" * size)
        os.utime(tmp_path / "unfinished" / f"{domain}@v1", (age, age))
    assert unfinished.names() == ["alpha@v1", "gamma@v1"], "beta's is the oldest, as alpha's was replaced"


def test_together_they_are_bounded_whatever_their_age(unfinished: Unfinished) -> None:
    for domain in ("alpha", "beta", "gamma"):
        unfinished.of(domain, 1).save(b"x" * 40)
    assert len(unfinished.names()) == 2 and "gamma@v1" in unfinished.names()


def test_one_that_is_too_large_by_itself_is_refused_with_the_remedy(unfinished: Unfinished) -> None:
    unfinished.of("alpha", 1).save(b"x" * 100)
    with pytest.raises(OSError, match=r"beta@v2 takes 101 bytes, .* 100; raise learner.checkpoint_bytes"):
        unfinished.of("beta", 2).save(b"x" * 101)
    assert unfinished.names() == ["alpha@v1"]


def test_what_nobody_wants_goes_with_what_was_cut_short(unfinished: Unfinished, storage: Storage) -> None:
    for domain in ("alpha", "beta", "gamma"):
        unfinished.of(domain, 1).save(b"x")
    if isinstance(storage, Disk):
        (storage.path / "staging" / "left by an earlier release").touch()
    names = unfinished.names()
    unfinished.of("delta", 1).save(b"x")
    unfinished.keep_only(names, {"beta@v1"})
    assert everything(storage) == ["unfinished/beta@v1", "unfinished/delta@v1"], "delta's came after the look"
