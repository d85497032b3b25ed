"""The tutorial as it stands: its commands are run one after another, on a system of its own."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.e2e.system import REPOSITORY, System

pytestmark = [pytest.mark.ray, pytest.mark.vllm, pytest.mark.timeout(300)]

TEXT = (REPOSITORY / "docs" / "tutorial.md").read_text(encoding="utf-8")
_BLOCK = re.compile(r"^```(sh|python)\n(.*?)^```", re.MULTILINE | re.DOTALL)
# What sets up, starts a system, opens a browser or wants a broker; the last are tried by tests of their own.
_NOT_HERE = ("make venv", "anabranch up", "kafka", "anabranch ui")


def section(title: str) -> list[tuple[str, str]]:
    """The blocks below a heading, without the lines that are not for here."""
    text = TEXT.split(f"\n## {title}\n")[1].split("\n## ")[0]
    blocks = []
    for language, block in _BLOCK.findall(text):
        lines = [line for line in block.splitlines() if language == "python" or not line.startswith(_NOT_HERE)]
        if lines and "KafkaProducer" not in block:
            blocks.append((language, "\n".join(lines)))
    return blocks


def run(blocks: list[tuple[str, str]], url: str, folder: Path) -> list[str]:
    """What each of these prints; one that fails fails the test."""
    tools = Path(sys.executable).parent
    environment = {**os.environ, "PATH": f"{tools}:{os.environ['PATH']}", "ANABRANCH_URL": url}
    said = []
    for language, block in blocks:
        here = block.replace("http://127.0.0.1:8000", url)
        command = ["bash", "-euo", "pipefail", "-c", here] if language == "sh" else [sys.executable, "-c", here]
        done = subprocess.run(
            command, cwd=folder, env=environment, capture_output=True, text=True, timeout=200, check=False
        )
        assert done.returncode == 0, f"{here}\n{done.stdout}{done.stderr}"
        said.append(done.stdout)
    return said


def test_from_a_file_to_an_answer_and_back(tmp_path: Path) -> None:
    (tmp_path / "examples").symlink_to(REPOSITORY / "examples")
    with System("laptop", tmp_path / "home") as system:
        (head,) = run(section("Your file"), system.url, tmp_path)
        assert head.splitlines()[0] == "text,iso"
        (before,) = run(section("A system"), system.url, tmp_path)
        assert before.startswith("base")
        fed, shown = run(section("Learned"), system.url, tmp_path)
        assert "my-dates" in fed and "candidate" in shown
        asked, answer = run(section("Asked"), system.url, tmp_path)
        assert "my-dates@v1-" in asked and "2002-09-08" in asked
        assert answer.startswith("1967-08-05 my-dates@v1-")
        (changed,) = run(section("Better, or back"), system.url, tmp_path)
        assert "german-dates" in changed and "my-dates" in changed
        assert [each["domain"] for each in system.status()["domains"] if each["version"]] == ["my-dates"]


def test_the_preset_becomes_a_file_of_ones_own(tmp_path: Path) -> None:
    (tmp_path / "examples").symlink_to(REPOSITORY / "examples")
    own = [(language, block) for language, block in section("With your own model") if "config" in block]
    assert own
    run(own, "http://127.0.0.1:1", tmp_path)
