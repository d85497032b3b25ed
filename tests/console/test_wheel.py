"""The wheel works by itself: built from the checkout, installed into an environment of its own, run from elsewhere."""

from __future__ import annotations

import os
import subprocess
import sys
import sysconfig
import zipfile
from pathlib import Path

import pytest

from tests.architecture.sources import PACKAGES

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def wheel(repository: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Built from a copy of what the wheel is made of, so that the checkout stays as it is."""
    source, built = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("wheel")
    for name in (*PACKAGES, "tests", "pyproject.toml", "README.md", "LICENSE"):
        (source / name).symlink_to(repository / name)
    # What pip would call; it would look for what there is to be built, first.
    build = f"from setuptools.build_meta import build_wheel; build_wheel({str(built)!r})"
    call(sys.executable, "-c", build, cwd=source)
    (found,) = built.glob("anabranch-*.whl")
    return found


@pytest.fixture(scope="module")
def command(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The installed command. The environment sees this one's libraries, but none of its checkouts."""
    environment = tmp_path_factory.mktemp("environment")
    call(sys.executable, "-m", "venv", "--without-pip", environment)
    python = environment / "bin" / "python"
    call(sys.executable, "-m", "pip", "--python", python, "install", "--quiet", "--no-deps", wheel)
    (site,) = environment.glob("lib/python*/site-packages")
    (site / "libraries.pth").write_text(sysconfig.get_paths()["purelib"] + "\n")
    return environment / "bin" / "anabranch"


def call(*arguments: str | Path, cwd: Path | None = None) -> str:
    done = subprocess.run(
        [str(a) for a in arguments], capture_output=True, text=True, cwd=cwd, env=clean(), check=False
    )
    assert done.returncode == 0, f"{arguments}: {done.stdout[-1000:]}{done.stderr[-2000:]}"
    return done.stdout


def clean() -> dict[str, str]:
    """An environment that leads to no checkout."""
    return {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}


def test_it_holds_every_package_and_its_data_and_no_tests(wheel: Path) -> None:
    names = zipfile.ZipFile(wheel).namelist()
    assert set(PACKAGES) <= {name.split("/")[0] for name in names}
    for data in (
        "configs/presets/laptop.yaml",
        "examples/base/model.safetensors",
        "serving/bundle/index.html",
        "examples/stream/sales-sql.test.jsonl",
    ):
        assert data in names
    assert [name for name in names if name.startswith(("tests/", "deploy/", "docs/"))] == []


def test_its_metadata_tell_what_it_is(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as opened:
        (name,) = [each for each in opened.namelist() if each.endswith("METADATA")]
        text = opened.read(name).decode()
    for field in ("Project-URL: ", "Classifier: ", "Description-Content-Type: text/markdown", "License-Expression: "):
        assert f"\n{field}" in text
    assert "# Anabranch" in text


def test_it_checks_a_preset_from_an_empty_folder(command: Path, tmp_path: Path) -> None:
    assert "valid" in call(command, "config", "validate", "laptop", cwd=tmp_path)
    shown = call(command, "config", "show", "laptop", cwd=tmp_path)
    assert str(command.parents[1]) in shown, "the base model is not the installed one"
    assert list(tmp_path.iterdir()) == []


def test_it_tells_of_the_demo_from_an_empty_folder(command: Path, tmp_path: Path) -> None:
    assert "--stream" in call(command, "demo", "--help", cwd=tmp_path)
