"""A home is checked, backed up, put back and read again from the command line; each refusal is one line."""

from __future__ import annotations

import fcntl
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner, Result

from actors import spool_folder
from actors.observation import LedgerView, Observation, RowKey, WriterRun, example_digest
from actors.router import Router
from actors.spool import Spool
from cluster import builders
from configs.loader import load
from console.cli import app
from learning.router_options import RouterOptions
from learning.statistics import Statistics
from registry.manifest import BaseRevision
from registry.records import sealed
from registry.registry import Registry
from streaming.embedded_log import EmbeddedLog, LogEntry
from streaming.source import TopicPartition

P0 = TopicPartition("anabranch", 0)


@pytest.fixture(autouse=True)
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine of its own, where spools may lie."""
    (tmp_path / "var-tmp").mkdir()
    monkeypatch.setattr(spool_folder, "_PERSISTENT", tmp_path / "var-tmp")


class Life:
    """A system's life on a home, as far as it leaves something on disk: a log, and a router that counts and commits."""

    def __init__(self, home: Path) -> None:
        self.home = home
        self.log = EmbeddedLog(builders.stream_file(home))
        self.log.ensure_topic("anabranch", 1)
        self.registry = Registry(builders.registry_root(home), writer=True)
        base = BaseRevision(model="tiny", digest="b" * 64)
        self.router = Router(self.registry, base, RouterOptions(ridge=2.0, background=False))

    def count(self, domain: str, rows: int = 3) -> None:
        """Append rows of a domain, count them, and seal them: a commit."""
        start = self.router.observed().get(P0, 0)
        entries = [LogEntry(0, None, f"{domain}{n}".encode(), b"", n) for n in range(rows)]
        self.log.append(self.log.logs("anabranch"), entries)
        features = np.random.default_rng(start).normal(size=(rows, 5))
        keys = [RowKey(domain, example_digest(domain, f"{start + n}"), P0, start + n, False) for n in range(rows)]
        statistics = Statistics.of(features, [domain] * rows, "f")
        receipt = self.router.observe(Observation({P0: (start, start + rows)}, tuple(keys), statistics=statistics))
        assert receipt.applied
        self.router.seal(domain, 1, {P0: start + rows})

    def end(self) -> None:
        self.log.close()


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """A home with three snapshots."""
    life = Life(tmp_path / "home")
    for domain in ("birds", "boats", "trees"):
        life.count(domain)
    life.end()
    return tmp_path / "home"


def run(*arguments: object) -> Result:
    return CliRunner().invoke(app, ["home", *map(str, arguments)])


def refused(*arguments: object) -> str:
    """Run a command that must be refused; returns its one line."""
    done = run(*arguments)
    assert done.exit_code == 2, (done.output, done.exception)
    lines = done.stderr.strip().splitlines()
    assert len(lines) == 1 and lines[0].startswith("anabranch: "), done.stderr
    return lines[0]


def well(*arguments: object) -> str:
    done = run(*arguments)
    assert done.exit_code == 0, (done.output, done.stderr, done.exception)
    return done.stdout


def faults(home: Path) -> list[str]:
    done = run("check", home)
    assert done.exit_code == (1 if done.stderr else 0), (done.output, done.exception)
    return done.stderr.splitlines()


def everything(home: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in home.rglob("*") if path.is_file()}


def segment(home: Path) -> Path:
    return max((home / "registry" / "segments").rglob("*.safetensors"), key=lambda path: path.stat().st_mtime_ns)


@contextmanager
def running(home: Path) -> Iterator[None]:
    """What a running system holds."""
    with (home / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


# -- check ------------------------------------------------------------------------------------------------------------


def test_a_sound_home_is_said_to_be_well_and_left_as_it_is(home: Path) -> None:
    before = everything(home)
    said = well("check", home)
    assert "snapshot 3" in said and "9 records" in said and "all is well" in said
    assert {path: content for path, content in everything(home).items() if path in before} == before
    assert "all is well" in well("check", "demo", "--set", f"home={home}")


def test_a_damaged_home_is_said_and_gone_back_on_purpose(home: Path) -> None:
    root = max((home / "registry" / "snapshots").iterdir())
    content = root.read_bytes()
    root.write_bytes(content[: len(content) // 2] + b"#" + content[len(content) // 2 + 1 :])
    assert any(root.name[:6] in line and "anabranch home back" in line for line in faults(home))
    assert "snapshot" in refused("take-log", home, "anabranch")
    said = well("back", home)
    assert "2" in said
    assert faults(home) == []
    # What was counted in between is counted again.
    life = Life(home)
    assert life.router.observed() == {P0: 6}
    life.count("trees")
    life.end()
    assert faults(home) == []


@pytest.mark.parametrize("part", ["segment", "head.json", "stream"])
def test_damage_is_found_wherever_it_is(home: Path, part: str) -> None:
    path = {
        "segment": segment(home),
        "head.json": home / "registry" / "head.json",
        "stream": home / "stream.sqlite",
    }[part]
    content = bytearray(path.read_bytes())
    for place in range(len(content) // 2, min(len(content) // 2 + 64, len(content) - 2)):
        content[place] ^= 0xFF
    path.write_bytes(content)
    lines = faults(home)
    assert lines and all(str(home) in line for line in lines)


def test_a_damaged_schema_is_said_in_a_line_that_names_its_file(home: Path) -> None:
    """What SQLite says of it is no text."""
    lineage = Registry(builders.registry_root(home)).lineage
    spool = spool_folder.make_spool_folder(home, lineage, None) / "ingest-0.sqlite"
    Spool(spool).close()
    for path in (spool, home / "stream.sqlite"):
        content = path.read_bytes()
        path.write_bytes(content.replace(b"PRIMARY KEY", b"\xff" * 11))
        assert any(str(path) in line for line in faults(home))
        path.write_bytes(content)
    assert faults(home) == []


@pytest.mark.parametrize("name", ["epoch.json", "lineage.json"])
def test_a_changed_byte_of_the_homes_own_names_is_found(home: Path, name: str) -> None:
    path = home / "registry" / name
    content = path.read_bytes()
    path.write_bytes(content[:12] + bytes([content[12] ^ 1]) + content[13:])
    assert any(name in line for line in faults(home))


def test_a_head_of_another_home_is_refused_in_a_line_that_names_both(home: Path, tmp_path: Path) -> None:
    other = Registry(tmp_path / "other")
    head = home / "registry" / "head.json"
    head.write_bytes((other.root / "head.json").read_bytes())
    lineage = Registry(builders.registry_root(home)).lineage
    (line,) = [line for line in faults(home) if "head.json" in line]
    assert lineage in line and other.lineage in line
    assert lineage in refused("take-log", home, "anabranch")
    assert "in force are snapshot 3" in well("back", home, "--to", "3")
    assert faults(home) == []


@pytest.mark.parametrize("command", [["check"], ["back"], ["take-log", "anabranch"]])
def test_a_home_of_a_later_version_is_refused_in_one_line(home: Path, command: list[str]) -> None:
    path = home / "registry" / "head.json"
    content = json.loads(path.read_bytes())
    del content["sha256"]
    path.write_bytes(sealed({**content, "format": 4}, "head.json"))
    name, *rest = command
    before = everything(home)
    lines = faults(home) if name == "check" else [refused(name, home, *rest)]
    assert len(lines) == 1 and "got 4; it is of a newer Anabranch: upgrade" in lines[0]
    assert {each: content for each, content in everything(home).items() if each in before} == before


def test_a_spool_that_does_not_follow_is_a_fault_until_it_is_read_again(home: Path) -> None:
    folder = builders.spool_path(load("demo", [f"home={home}", "ingest.spool_folder=null"]), 0).parent
    spool = Spool(folder / "ingest-0.sqlite")
    lineage = Registry(builders.registry_root(home)).lineage
    spool.follow(LedgerView(lineage, "x", (WriterRun("x", 1),), 9, {}, {}, {}, {}, {}))
    spool.close()
    (line,) = faults(home)
    assert "snapshot 9" in line and "anabranch home reread" in line
    (folder / "ingest-1.sqlite.set-aside").write_bytes(b"of a version before")
    (home / "spool").mkdir()
    (home / "spool" / "ingest-0.sqlite-wal").write_bytes(b"of other settings")
    said = well("reread", home)
    assert "3 files of spools deleted" in said and "ingest-1.sqlite.set-aside" in said.replace("\n", "")
    assert faults(home) == [] and [*folder.iterdir(), *(home / "spool").iterdir()] == []
    assert (home / "stream.sqlite").exists()


# -- backup -----------------------------------------------------------------------------------------------------------


def test_a_backup_made_while_everything_runs_is_started_on(home: Path, tmp_path: Path) -> None:
    stop, counted = threading.Event(), threading.Event()

    def live() -> None:
        life = Life(home)
        number = 0
        while not stop.is_set():
            life.count(f"domain-{number}")
            number += 1
            counted.set()
        life.end()

    system = threading.Thread(target=live)
    with running(home):
        system.start()
        try:
            assert counted.wait(30)
            for number in range(3):
                well("backup", home, tmp_path / f"backup-{number}")
        finally:
            stop.set()
            system.join()
    for number in range(3):
        copy = tmp_path / f"backup-{number}"
        assert faults(copy) == []
        life = Life(copy)
        assert life.registry.lineage == Registry(builders.registry_root(home)).lineage
        counted_rows, log = life.router.observed()[P0], life.log
        assert sum(life.router.examples().values()) == counted_rows > 9
        assert log.ends(log.logs("anabranch"))[log.logs("anabranch")[0]] >= counted_rows
        life.end()


def test_a_backup_goes_to_a_new_folder_only(home: Path, tmp_path: Path) -> None:
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "file").write_text("somebody's")
    assert "full" in refused("backup", home, tmp_path / "full")
    assert "file" in refused("backup", home, tmp_path / "full" / "file")
    assert (tmp_path / "full" / "file").read_text() == "somebody's"


def test_spools_and_trainings_under_way_are_left_out(home: Path, tmp_path: Path) -> None:
    for name in ("spool/ingest-0.sqlite", "work/learner-0/x"):
        (home / name).parent.mkdir(parents=True)
        (home / name).write_bytes(b"x")
    well("backup", home, tmp_path / "copy")
    assert {path.name for path in (tmp_path / "copy").iterdir()} == {"registry", "stream.sqlite"}


# -- what a person decides --------------------------------------------------------------------------------------------


def test_going_back_to_a_snapshot_says_so_and_numbers_go_on(home: Path) -> None:
    assert "1" in well("back", home, "--to", "1")
    life = Life(home)
    assert life.router.observed() == {P0: 3}
    life.end()
    assert "99" in refused("back", home, "--to", "99")


def test_what_is_not_whole_is_passed_over_with_a_word_and_refused_by_number(home: Path) -> None:
    registry = Registry(builders.registry_root(home))
    first, second = registry.snapshot(1), registry.snapshot(2)
    assert first is not None and second is not None
    path = registry.segments.path(next(iter(second.segments - first.segments)))
    path.write_bytes(path.read_bytes()[:-1] + b"#")
    before = everything(home)
    line = refused("back", home, "--to", "2")
    assert "snapshot 2 is not whole" in line and path.name in line
    assert {each: content for each, content in everything(home).items() if each in before} == before
    passed_over, in_force, *_ = well("back", home).splitlines()
    assert passed_over.startswith("passed over: snapshot 2") and path.name[:16] in passed_over
    assert "in force are snapshot 1" in in_force
    life = Life(home)
    life.count("ships")
    life.end()
    assert registry.head().snapshot == 4, "numbers go on"


def test_another_log_is_taken_by_name(home: Path) -> None:
    assert "9 examples" in well("take-log", home, "anabranch")
    life = Life(home)
    assert life.router.observed() == {}
    life.end()
    assert "'other'" in refused("take-log", home, "other")


@pytest.mark.parametrize("command", [["back"], ["reread"], ["take-log", "anabranch"]])
def test_what_changes_a_home_wants_it_at_rest(home: Path, command: list[str]) -> None:
    name, *rest = command
    with running(home):
        before = everything(home)
        assert "another Anabranch is running" in refused(name, home, *rest)
        assert everything(home) == before


@pytest.mark.parametrize("command", [["check"], ["backup", "somewhere"], ["back"], ["reread"], ["take-log", "t"]])
def test_what_is_no_home_is_refused_and_nothing_is_made(tmp_path: Path, command: list[str]) -> None:
    (tmp_path / "empty").mkdir()
    name, *rest = command
    assert "no registry" in refused(name, tmp_path / "empty", *rest)
    assert list((tmp_path / "empty").iterdir()) == []
    assert "none" in refused(name, tmp_path / "none", *rest)
