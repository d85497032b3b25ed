"""The completion as bash runs it: the script that `--show-completion` prints, sourced, and asked for words."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from console import completion
from tests.architecture.sources import REPOSITORY
from tests.console.answers import FrontDoor, front_door

bash = pytest.mark.skipif(shutil.which("bash") is None, reason="no bash here")
DOMAIN = {"state": "open", "version": None, "examples": 1, "router_rows": 1, "waiting": {}}
DOMAINS = [{"domain": name, **DOMAIN} for name in ("sales-sql", "german-dates", "german-cars")]


@pytest.fixture
def environment(tmp_path: Path) -> dict[str, str]:
    """One in which `anabranch` is a command, as it is installed."""
    program = tmp_path / "anabranch"
    program.write_text(
        f"#!{sys.executable}\nimport sys\nfrom console.cli import main\nsys.argv[0] = 'anabranch'\nmain()\n"
    )
    program.chmod(0o755)
    return {**os.environ, "PATH": f"{tmp_path}:{os.environ['PATH']}", "PYTHONPATH": str(REPOSITORY)}


def completed(environment: dict[str, str], words: str) -> list[str]:
    """What bash would offer behind these words."""
    script = f"""
        source <(_TYPER_COMPLETE_TEST_DISABLE_SHELL_DETECTION=1 anabranch --show-completion bash)
        COMP_WORDS=({words}) COMP_CWORD=$((${{#COMP_WORDS[@]}} - 1))
        $(complete -p anabranch | sed 's/.*-F \\([^ ]*\\).*/\\1/') anabranch
        printf '%s\\n' "${{COMPREPLY[@]}}"
    """
    done = subprocess.run(["bash", "-c", script], env=environment, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0 and done.stderr == "", done.stderr
    return done.stdout.split()


@pytest.mark.slow
@bash
def test_commands_options_and_presets(environment: dict[str, str]) -> None:
    assert completed(environment, "anabranch do") == ["doctor", "domains"]
    assert completed(environment, "anabranch feed --inp") == ["--input-column"]
    assert completed(environment, "anabranch up l") == ["laptop"]
    assert completed(environment, "anabranch dead-letters list --config one") == ["one_gpu"]


@pytest.mark.slow
@bash
def test_domains_of_the_service(environment: dict[str, str]) -> None:
    with front_door(FrontDoor(body=json.dumps({"domains": DOMAINS}).encode())) as door:
        asked = {**environment, "ANABRANCH_URL": door.url}
        assert completed(asked, "anabranch domains show german") == ["german-cars", "german-dates"]
        named = f"anabranch domains pin --url {door.url} sal"
        assert completed(environment, named) == ["sales-sql"]


def test_no_service_offers_nothing() -> None:
    nowhere = SimpleNamespace(params={"url": "http://127.0.0.1:9"})
    assert completion.domains(nowhere, "") == []
    assert completion.models(nowhere, "") == ["auto", "base"]
    assert completion.domains(SimpleNamespace(params={"url": "no address"}), "") == []
