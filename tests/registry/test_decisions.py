"""Decisions are kept in order, bounded, found again by their ids, and damage of one hides no other."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from registry.decisions import DecisionLog
from registry.errors import RegistryError
from registry.registry import Registry
from registry.storage import Storage


class Clock:
    def __init__(self) -> None:
        self.now = datetime(2026, 1, 1, tzinfo=UTC)

    def __call__(self) -> datetime:
        self.now += timedelta(seconds=1)
        return self.now


@pytest.fixture
def storage(tmp_path: Path) -> Storage:
    return Registry(tmp_path, writer=True).storage


def log(storage: Storage, keep: int = 1000) -> DecisionLog:
    return DecisionLog(storage, keep, Clock())


def numbers(found: DecisionLog, before: str = "") -> list[int]:
    return [each["n"] for each in found.newest(before)]


def test_the_newest_come_first_over_files_of_several_writers(storage: Storage) -> None:
    own = log(storage)
    own.put([{"n": n} for n in range(12)])
    own.put([{"n": 12}])
    own.put([])
    assert numbers(DecisionLog(storage, 0)) == list(range(12, -1, -1))


def test_each_is_found_by_its_id_and_pages_go_on_from_one(storage: Storage) -> None:
    own = log(storage)
    for start in (0, 12, 24):
        own.put([{"n": n} for n in range(start, start + 12)])
    whole = list(own.newest())
    assert len({each["id"] for each in whole}) == 36
    for each in whole:
        assert own.find(each["id"]) == each
        assert numbers(own, each["id"]) == list(range(each["n"] - 1, -1, -1))


@pytest.mark.parametrize("name", ["", "x", "../keys", "20260101T000000.000000-00000000-1-0", "2026-1", "a/b-0"])
def test_what_is_no_id_of_one_is_none(storage: Storage, name: str) -> None:
    own = log(storage)
    own.put([{"n": 1}])
    assert own.find(name) is None


def test_about_as_many_are_kept_as_are_to_be(storage: Storage) -> None:
    own = log(storage, keep=50)
    for start in range(0, 1010, 10):
        own.put([{"n": n} for n in range(start, start + 10)])
    kept = numbers(own)
    assert kept[:50] == list(range(1009, 959, -1)) and len(kept) <= 50 + 20 * 10


def test_a_damaged_line_hides_no_other(storage: Storage, tmp_path: Path) -> None:
    own = log(storage)
    own.put([{"n": 0}, {"n": 1}, {"n": 2}])
    (file,) = (tmp_path / "decisions").iterdir()
    first, _, last = file.read_bytes().splitlines()
    file.write_bytes(b"\n".join([first, b"\xff{", last, b"7", b""]))
    (tmp_path / "decisions" / "note.txt").write_text("not one of ours")
    assert numbers(own) == [2, 0]


def test_a_log_that_is_not_there_is_empty(storage: Storage) -> None:
    assert numbers(DecisionLog(storage, 0)) == []


def test_what_can_not_be_written_is_said(storage: Storage, tmp_path: Path) -> None:
    (tmp_path / "decisions").write_text("a file where the folder should be")
    with pytest.raises(RegistryError, match="decisions"):
        log(storage).put([{"n": 1}])
