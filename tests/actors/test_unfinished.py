"""What is kept of trainings on their way is whole, bounded, and gone when nobody wants it."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from actors.unfinished import Unfinished


@pytest.fixture
def unfinished(tmp_path: Path) -> Unfinished:
    return Unfinished(tmp_path / "unfinished", 100)


def everything(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


def test_another_process_finds_what_was_kept_last(unfinished: Unfinished, tmp_path: Path) -> None:
    place = unfinished.of("alpha", 3)
    assert place.load() is None and unfinished.names() == []
    place.save(b"one")
    place.save(b"two")
    other = Unfinished(tmp_path / "unfinished", 100)
    assert other.of("alpha", 3).load() == b"two"
    assert other.of("alpha", 2).load() is None and other.of("beta", 3).load() is None
    assert other.names() == ["alpha@v3"] and everything(tmp_path / "unfinished") == ["alpha@v3"]


def test_what_can_not_be_written_leaves_what_was_there(
    unfinished: Unfinished, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = unfinished.of("alpha", 1)
    place.save(b"one")

    def full(*_: object) -> None:
        raise OSError("no space left")

    for call in ("write", "fsync", "replace"):
        with monkeypatch.context() as patched:
            patched.setattr(os, call, full)
            with pytest.raises(OSError, match="no space left"):
                place.save(b"two")
        assert place.load() == b"one" and everything(tmp_path / "unfinished") == ["alpha@v1"]


def test_the_oldest_makes_room(unfinished: Unfinished, tmp_path: Path) -> None:
    for age, (domain, size) in enumerate([("alpha", 40), ("beta", 30), ("gamma", 30), ("alpha", 45)]):
        unfinished.of(domain, 1).save(b"x" * size)
        os.utime(tmp_path / "unfinished" / f"{domain}@v1", (age, age))
    assert unfinished.names() == ["alpha@v1", "gamma@v1"], "beta's is the oldest, as alpha's was replaced"


def test_one_that_is_too_large_by_itself_is_refused_with_the_remedy(unfinished: Unfinished) -> None:
    unfinished.of("alpha", 1).save(b"x" * 100)
    with pytest.raises(OSError, match=r"beta@v2 takes 101 bytes, .* 100; raise learner.checkpoint_bytes"):
        unfinished.of("beta", 2).save(b"x" * 101)
    assert unfinished.names() == ["alpha@v1"]


def test_what_nobody_wants_goes_with_what_was_cut_short(unfinished: Unfinished, tmp_path: Path) -> None:
    for domain in ("alpha", "beta", "gamma"):
        unfinished.of(domain, 1).save(b"x")
    (tmp_path / "unfinished" / "staging" / "left by an earlier release").touch()
    names = unfinished.names()
    unfinished.of("delta", 1).save(b"x")
    unfinished.keep_only(names, {"beta@v1"})
    assert everything(tmp_path / "unfinished") == ["beta@v1", "delta@v1"], "delta's came after the look"
