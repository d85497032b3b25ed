"""What a training leaves comes whole to a machine that shares nothing with the learner's but the registry's storage."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from obstore.store import MemoryStore

from actors.handover import Handover
from learning.contract import TrainingJob, TrainingResult
from registry.bucket import Bucket
from registry.disk import Disk
from registry.errors import StoreAway
from registry.storage import Storage
from tests.actors.standins import result_of


class Machines:
    """Two machines: a bucket's copies lie under the same path on both, with other content; a folder is shared."""

    def __init__(self, kind: str, home: Path) -> None:
        self._kind, self._home, self._store = kind, home, MemoryStore()

    def storage(self) -> Storage:
        if self._kind == "folder":
            return Disk(self._home / "shared")
        return Bucket(self._store, "memory://shared", self._home / "copies")

    def change(self) -> None:
        """Go over to the other machine: nothing is there but what both share."""
        if self._kind == "bucket" and (self._home / "copies").exists():
            (self._home / "copies").rename(self._home / "copies of the first")


@pytest.fixture(params=["folder", "bucket"])
def machines(request: pytest.FixtureRequest, tmp_path: Path) -> Machines:
    return Machines(request.param, tmp_path)


def trained(work: Path) -> TrainingResult:
    """A result of two adapters, a state and a changed base, the first in the folder `work` and the others below it, as
    the methods leave them."""
    result = result_of(TrainingJob("alpha", 1, (), (), work, 0), 1.0)
    folders = {"own": work, "other": work / "beside" / "1", "state": work / "state", "delta": work / "base"}
    for name, folder in folders.items():
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "weights.safetensors").write_bytes(name.encode() * 1000)
        (folder / "settings.json").write_text(name)
    first = replace(result.adapters[0], folder=folders["own"])
    second = replace(first, domain="beta", continues=1, folder=folders["other"])
    third = replace(first, domain="gamma", continues=1, folder=None, rank=0)
    return replace(result, adapters=(first, second, third), state=folders["state"], base_delta=folders["delta"])


def test_it_comes_whole_and_leaves_nothing(machines: Machines, tmp_path: Path) -> None:
    work = tmp_path / "work"
    given = Handover(machines.storage()).give("learner-0", "alpha@v1", trained(work))
    assert not [path for path in work.rglob("*") if path.is_file()], "it was moved"
    machines.change()
    storage = machines.storage()
    there = Handover(storage)
    there.present(given.folders)
    assert [(path / "settings.json").read_text() for path in given.folders] == ["own", "other", "state", "delta"]
    assert (given.folders[3] / "weights.safetensors").read_bytes() == b"delta" * 1000
    assert given.adapters[2].folder is None
    assert all(path.is_file() for folder in given.folders for path in folder.iterdir()), "none lies in another"
    there.clear(given)
    assert storage.entries("trained") == [] and not any(path.exists() for path in given.folders)
    there.clear(given)


def test_a_learner_removes_what_its_predecessors_left_and_nobody_elses(machines: Machines, tmp_path: Path) -> None:
    storage = machines.storage()
    handover = Handover(storage)
    for owner in ("learner-1", "learner-10", "learner-1"):
        handover.give(owner, "alpha@v1", trained(tmp_path / "work"))
    handover.empty("learner-1")
    left = {each.key.split("/")[1].partition("~")[0] for each in storage.entries("trained")}
    assert left == {"learner-10"} and len(storage.folders("trained")) == 4
    handover.empty("learner-10")
    assert storage.entries("trained") == []


def test_what_was_cut_short_on_its_way_goes_too(machines: Machines, tmp_path: Path) -> None:
    storage = machines.storage()
    if isinstance(storage, Bucket):
        storage._put("trained/learner-0~alpha@v1~x/0a/weights.safetensors", b"half", "overwrite")
    else:
        half = tmp_path / "shared" / "trained" / "learner-0~alpha@v1~x" / "weights.safetensors"
        half.parent.mkdir(parents=True)
        half.write_bytes(b"half")
    Handover(storage).empty("learner-0")
    assert storage.entries("trained") == []


def test_a_store_that_is_away_stops_no_training_from_beginning(
    machines: Machines, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    storage = machines.storage()
    given = Handover(storage).give("learner-0", "alpha@v1", trained(tmp_path / "work"))

    def away(*_: object) -> None:
        raise StoreAway("the store is away")

    for method in ("folders", "take_away"):
        monkeypatch.setattr(storage, method, away)
    Handover(storage).empty("learner-0")
    Handover(storage).clear(given)
    assert "the store is away" in caplog.text
