"""The learner's process killed with SIGKILL in the midst of a training, in the whole system but for the engine."""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.e2e.system import System

pytestmark = [pytest.mark.ray, pytest.mark.slow, pytest.mark.timeout(1200)]

COMMAND = [sys.executable, "-m", "tests.faults.program"]
DOMAIN = "it-helpdesk"
SETS = [
    "features.expansion=256",
    "learner.max_steps=100",
    "learner.patience=null",
    "learner.evaluate_every=50",
    "learner.checkpoint_seconds=0.01",
]


def test_the_training_goes_on_where_it_was_left(tmp_path: Path, repository: Path) -> None:
    lines = (repository / "examples" / "stream" / f"{DOMAIN}.train.jsonl").read_text(encoding="utf-8").splitlines()
    (tmp_path / "rows.jsonl").write_text("\n".join(lines[:200]) + "\n", encoding="utf-8")
    system = System("demo", tmp_path / "home", SETS, COMMAND)
    try:
        system.start(400)
        system.feed(tmp_path / "rows.jsonl")
        system.wait_for(lambda: (system.domain(DOMAIN).get("progress") or {}).get("step", 0) > 10, 300, "steps", 0.02)
        os.kill(actors(system)["learner-0"]["pid"], signal.SIGKILL)
        system.wait_for(lambda: bool(system.domain(DOMAIN)["version"]), 400, "published")
        (version,) = system.domain(DOMAIN)["versions"]
        assert version["figures"]["resumed_from"] > 0 and version["figures"]["steps"] == 100, version
        assert actors(system)["learner-0"]["restarts"] == 1
        system.wait_for(lambda: kept(tmp_path / "home") == [], 60, "nothing kept of what is done")
    finally:
        system.stop()


def actors(system: System) -> dict[str, Any]:
    return dict(httpx.get(f"{system.url}/actors", timeout=60).json())


def kept(home: Path) -> list[Path]:
    return [path for path in (home / "unfinished").iterdir() if path.is_file()]
