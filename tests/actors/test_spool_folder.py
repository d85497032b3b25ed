"""Where the spools of a home lie, that nobody else reads them, and which of them don't follow the ledger."""

from __future__ import annotations

import os
import sqlite3
from pathlib import Path

import pytest

from actors import spool_folder
from actors.errors import OtherHome
from actors.observation import LedgerView, WriterRun
from actors.spool import Spool
from actors.spool_folder import drop, faults, known_folders, make_spool_folder
from registry.registry import Registry

LINEAGE = "c0ffee" * 6


@pytest.fixture(autouse=True)
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A machine of its own."""
    (tmp_path / "var-tmp").mkdir(mode=0o777)
    monkeypatch.setattr(spool_folder, "_PERSISTENT", tmp_path / "var-tmp")
    return tmp_path / "var-tmp"


def mode(path: Path) -> int:
    return path.stat().st_mode & 0o777


@pytest.mark.parametrize("chosen", [None, Path("")])
def test_by_default_they_lie_on_the_machine_and_only_their_user_sees_them(
    tmp_path: Path, machine: Path, chosen: Path | None
) -> None:
    folder = make_spool_folder(tmp_path / "home", LINEAGE, chosen)
    assert folder.parent.parent == machine and mode(folder) == mode(folder.parent) == 0o700
    assert make_spool_folder(tmp_path / "home", LINEAGE, chosen) == folder


def test_a_relative_folder_is_one_of_the_home(tmp_path: Path) -> None:
    folder = make_spool_folder(tmp_path / "home", LINEAGE, Path("spool"))
    assert folder == tmp_path / "home" / "spool" and mode(folder) == 0o700


@pytest.mark.parametrize("chosen", [None, "disk"])
def test_homes_and_copies_of_a_home_do_not_share_spools(tmp_path: Path, chosen: str | None) -> None:
    disk = tmp_path / chosen if chosen else None
    places = [(tmp_path / "a", "1" * 32), (tmp_path / "a", "2" * 32), (tmp_path / "b", "1" * 32)]
    assert len({make_spool_folder(home, lineage, disk) for home, lineage in places}) == 3


def test_a_folder_of_somebody_else_is_refused(tmp_path: Path, machine: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make_spool_folder(tmp_path / "home", LINEAGE, None)
    mine = os.geteuid()
    (machine / f"anabranch-{mine + 1}").mkdir()
    monkeypatch.setattr(spool_folder.os, "geteuid", lambda: mine + 1)
    with pytest.raises(
        OtherHome, match=rf"anabranch-{mine + 1}: expected a folder of .* user {mine}; remove it"
    ) as caught:
        make_spool_folder(tmp_path / "home", LINEAGE, None)
    assert "\n" not in str(caught.value)


def test_a_link_in_its_place_is_refused(tmp_path: Path, machine: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    (machine / f"anabranch-{os.geteuid()}").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(OtherHome):
        make_spool_folder(tmp_path / "home", LINEAGE, None)
    assert list((tmp_path / "elsewhere").iterdir()) == []


def test_dropping_takes_every_file_of_every_spool(tmp_path: Path) -> None:
    folder = make_spool_folder(tmp_path / "home", LINEAGE, None)
    main = ["ingest-0.sqlite", "ingest-1.sqlite"]
    beside = ["ingest-0.sqlite-wal", "ingest-1.sqlite-shm", "ingest-1.sqlite-journal"]
    without_one = ["ingest-2.sqlite-wal", "ingest-3.sqlite.set-aside", "ingest-3.sqlite.set-aside-wal"]
    for name in (*main, *beside, *without_one, "notes.txt"):
        (folder / name).write_bytes(b"x")
    assert known_folders(tmp_path / "home", LINEAGE, Path("spool")) == [folder]
    assert [path.name for path in drop(folder)] == sorted([*main, *beside, *without_one])
    assert [path.name for path in folder.iterdir()] == ["notes.txt"]
    assert drop(folder) == []


class Snapshots:
    """As much of a registry as is asked here: a lineage, and runs that led to a snapshot."""

    def __init__(self, lineage: str, number: int, runs: list[tuple[str, int]]) -> None:
        self.lineage, self.number, self.state = lineage, number, {"runs": runs}

    def snapshot(self) -> Snapshots | None:
        return self if self.number else None


def led_after(folder: Path, number: int, run: str = "r1", lineage: str = LINEAGE) -> Spool:
    spool = Spool(folder / f"ingest-{number}.sqlite")
    spool.follow(LedgerView(lineage, run, (WriterRun(run, 1),), number, {}, {}, {}, {}, {}))
    return spool


def told(folder: Path, *registry: object) -> list[str]:
    known: Registry = Snapshots(*registry)  # type: ignore[arg-type, assignment]
    return list(faults(folder, known))


def test_spools_that_follow_have_no_fault(tmp_path: Path) -> None:
    for number in (1, 4):
        led_after(tmp_path, number).close()
    assert told(tmp_path, LINEAGE, 4, [("r1", 1)]) == []
    assert told(tmp_path, LINEAGE, 9, [("r1", 1), ("r2", 5)]) == []


@pytest.mark.parametrize(
    "registry",
    [(LINEAGE, 3, [("r1", 1)]), (LINEAGE, 9, [("r1", 1), ("r2", 4)]), ("other" * 6, 4, [("r1", 1)]), (LINEAGE, 0, [])],
    ids=["before it", "branched off before it", "another home", "nothing"],
)
def test_a_spool_that_is_ahead_is_named_with_both_sides_and_the_way_on(tmp_path: Path, registry: tuple) -> None:
    led_after(tmp_path, 4).close()
    (line,) = told(tmp_path, *registry)
    assert "ingest-4.sqlite" in line and "snapshot 4" in line and f"snapshot {registry[1]}" in line
    assert "anabranch home reread" in line and "\n" not in line


def test_a_spool_that_can_not_be_read_is_named_and_left_as_it_is(tmp_path: Path) -> None:
    led_after(tmp_path, 1).close()
    path = tmp_path / "ingest-1.sqlite"
    content = path.read_bytes()
    path.write_bytes(content[:4096] + b"\xff" * 4096 + content[8192:])
    (tmp_path / "ingest-2.sqlite").write_bytes(b"no database " * 500)
    database = sqlite3.connect(tmp_path / "ingest-3.sqlite")
    database.execute("PRAGMA user_version=99")
    database.close()
    lines = told(tmp_path, LINEAGE, 1, [("r1", 1)])
    assert len(lines) == 3 and "format 99" in lines[2]
    assert sorted(path.name for path in tmp_path.glob("*.sqlite*")) == [f"ingest-{n}.sqlite" for n in (1, 2, 3)]


@pytest.mark.parametrize("value", ["many", "", "1.5", "9" * 5000])
def test_a_snapshot_that_is_no_number_is_named_in_one_line(tmp_path: Path, value: str) -> None:
    spool = led_after(tmp_path, 4)
    spool.note("snapshot", value)
    spool.close()
    (line,) = told(tmp_path, LINEAGE, 4, [("r1", 1)])
    assert "ingest-4.sqlite" in line and "number of a snapshot" in line and "\n" not in line and len(line) < 500


def test_an_index_that_does_not_hold_what_its_table_does_is_found(tmp_path: Path) -> None:
    spool = led_after(tmp_path, 4)
    db = spool._db
    db.execute("PRAGMA writable_schema=ON")
    index = db.execute("SELECT * FROM sqlite_master WHERE name='packs_domain'").fetchone()
    db.execute("DELETE FROM sqlite_master WHERE name='packs_domain'")
    spool.close()
    db = sqlite3.connect(tmp_path / "ingest-4.sqlite", isolation_level=None)
    db.execute("INSERT INTO packs VALUES (NULL,'stream',0,1,1,'alpha',1,9,x'0100000000000000',x'00')")
    db.execute("PRAGMA writable_schema=ON")
    db.execute("INSERT INTO sqlite_master VALUES (?,?,?,?,?)", index)
    db.close()
    (line,) = told(tmp_path, LINEAGE, 4, [("r1", 1)])
    assert "ingest-4.sqlite" in line and "packs_domain" in line


def test_a_spool_in_use_is_passed_over_and_its_worker_goes_on(tmp_path: Path) -> None:
    spool = led_after(tmp_path, 4)
    assert told(tmp_path, LINEAGE, 3, [("r1", 1)]) == []
    spool.note("still", "here")
    spool.close()
    assert len(told(tmp_path, LINEAGE, 3, [("r1", 1)])) == 1
