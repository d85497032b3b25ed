"""Digests kept between processes: never an old one for a changed file, never a failure of their own."""

import os
from pathlib import Path

import pytest

from learning.digest_cache import remembered

LONG_AGO = 1_600_000_000_000_000_000


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "weights"
    path.write_bytes(b"abc")
    os.utime(path, ns=(LONG_AGO, LONG_AGO))
    return path


class Computed:
    """Counts how often it is asked, and answers with a digest of that count."""

    def __init__(self) -> None:
        self.times = 0

    def __call__(self) -> str:
        self.times += 1
        return f"{self.times:064x}"


def test_what_was_computed_once_is_known(file: Path, cache: Path) -> None:
    compute = Computed()
    assert remembered("a", [file], compute) == remembered("a", [file], compute)
    assert compute.times == 1 and len(list(cache.iterdir())) == 1


def test_another_computation_or_path_is_another_digest(file: Path, tmp_path: Path) -> None:
    compute = Computed()
    other = tmp_path / "other"
    other.write_bytes(b"abc")
    os.utime(other, ns=(LONG_AGO, LONG_AGO))
    digests = [remembered(what, files, compute) for what, files in (("a", [file]), ("b", [file]), ("a", [file, other]))]
    assert len(set(digests)) == 3 and compute.times == 3


@pytest.mark.parametrize("change", ["size", "time", "inode"])
def test_a_changed_file_is_seen(file: Path, tmp_path: Path, change: str) -> None:
    compute = Computed()
    before = remembered("a", [file], compute)
    if change == "size":
        file.write_bytes(b"abcd")
        os.utime(file, ns=(LONG_AGO, LONG_AGO))
    elif change == "time":
        os.utime(file, ns=(LONG_AGO, LONG_AGO + 1))
    else:
        other = tmp_path / "new"
        other.write_bytes(b"xyz")
        os.utime(other, ns=(LONG_AGO, LONG_AGO))
        other.replace(file)
    assert remembered("a", [file], compute) != before


def test_a_file_that_may_still_be_written_is_not_remembered(file: Path) -> None:
    compute = Computed()
    os.utime(file)
    remembered("a", [file], compute)
    remembered("a", [file], compute)
    assert compute.times == 2


@pytest.mark.parametrize("content", [b"", b"0" * 63, b"z" * 64, b"\xff" * 64])
def test_a_damaged_entry_is_computed_anew(file: Path, cache: Path, content: bytes) -> None:
    compute = Computed()
    remembered("a", [file], compute)
    (entry,) = cache.iterdir()
    entry.write_bytes(content)
    assert remembered("a", [file], compute) == f"{2:064x}" == entry.read_text()


def test_a_cache_that_cannot_be_written_is_no_failure(file: Path, cache: Path) -> None:
    compute = Computed()
    cache.parent.parent.mkdir()
    cache.parent.write_text("a file where the folder should be")
    assert remembered("a", [file], compute) == f"{1:064x}"
    assert remembered("a", [file], compute) == f"{2:064x}"


def test_a_write_that_fails_leaves_nothing_behind(file: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError("no space left on device")

    monkeypatch.setattr(os, "replace", full)
    assert remembered("a", [file], Computed()) == f"{1:064x}"
    assert list(cache.iterdir()) == []
