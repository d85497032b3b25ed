"""What is refused before anything starts, in one line."""

from __future__ import annotations

import sqlite3
from pathlib import Path

import pytest

from cluster import builders
from cluster.errors import ClusterError
from cluster.preflight import check_surroundings
from configs.loader import load
from configs.settings import Settings


def settings(home: Path, *sets: str) -> Settings:
    return load("demo", [f"home={home}", *sets])


def refused(chosen: Settings) -> str:
    with pytest.raises(ClusterError) as caught:
        check_surroundings(chosen)
    return str(caught.value)


def test_a_sound_home_is_locked_and_freed(tmp_path: Path) -> None:
    lock = check_surroundings(settings(tmp_path))
    assert "another Anabranch" in refused(settings(tmp_path))
    lock.release()
    check_surroundings(settings(tmp_path)).release()


@pytest.mark.parametrize(
    ("sets", "key"),
    [
        (["learner.frozen_layers=6"], "learner.frozen_layers"),
        (["learner.frozen_layers=9", "features.layers=[0, 7]"], "features.layers"),
    ],
)
def test_layers_that_the_base_has_not_are_named(tmp_path: Path, sets: list[str], key: str) -> None:
    assert refused(settings(tmp_path, *sets)).startswith(key)
    # The lock is free again: the right settings start at once.
    check_surroundings(settings(tmp_path)).release()


def test_a_base_without_layers_is_refused(tmp_path: Path) -> None:
    base = tmp_path / "base"
    base.mkdir()
    for file in Path(settings(tmp_path).base.model).iterdir():
        (base / file.name).write_bytes(file.read_bytes() if file.name != "config.json" else b"{}")
    assert "num_hidden_layers" in refused(settings(tmp_path / "home", f"base.model={base}"))


def test_a_spool_that_is_none_is_refused(tmp_path: Path) -> None:
    chosen = settings(tmp_path)
    path = builders.spool_path(chosen, 0)
    path.parent.mkdir(parents=True)
    path.write_bytes(b"no database at all, and long enough to be taken for one" * 100)
    assert str(tmp_path) in refused(chosen)


def test_a_spool_of_a_later_version_is_refused(tmp_path: Path) -> None:
    chosen = settings(tmp_path)
    path = builders.spool_path(chosen, 0)
    path.parent.mkdir(parents=True)
    database = sqlite3.connect(path)
    database.execute("PRAGMA user_version=99")
    database.close()
    assert "format 99" in refused(chosen)
