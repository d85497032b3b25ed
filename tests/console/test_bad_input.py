"""Bad input at the command line: one clear line, exit code 2, nothing half-started left behind.

The commands run in this process, where whatever would start Ray fails the test; one, which gets farthest before it is
refused, runs in a process of its own.
"""

from __future__ import annotations

import socket
from dataclasses import replace
from pathlib import Path
from typing import Any

import psutil
import pytest
from typer.testing import CliRunner

from cluster import builders, runtime
from console.cli import app
from tests.e2e.system import run


@pytest.fixture(autouse=True)
def nothing_starts(monkeypatch: pytest.MonkeyPatch) -> None:
    def starts(*_: Any, **__: Any) -> None:
        raise AssertionError("refused only after Ray was started")

    monkeypatch.setattr(runtime.ray, "init", starts)


def refused(*arguments: str) -> str:
    """Run a command that must be refused; returns its one line."""
    done = CliRunner().invoke(app, arguments)
    assert done.exit_code == 2, (done.stdout, done.stderr, done.exception)
    return only_line(done.stderr)


def only_line(text: str) -> str:
    lines = text.strip().splitlines()
    assert len(lines) == 1, text
    return lines[0]


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def test_unknown_key(tmp_path: Path) -> None:
    line = refused("up", "demo", "--set", "learner.rnak=8", "--set", f"home={tmp_path}")
    assert "rnak" in line and "rank" in line


def test_missing_base(tmp_path: Path) -> None:
    line = refused("up", "demo", "--set", "base.model=./nowhere", "--set", f"home={tmp_path}")
    assert "base.model" in line and "nowhere" in line
    assert not list(tmp_path.iterdir())


def test_rank_over_the_engines_limit(tmp_path: Path) -> None:
    line = refused("up", "demo", "--set", "learner.rank=64", "--set", f"home={tmp_path}")
    assert "learner.rank" in line and "serving.max_lora_rank" in line


def test_missing_broker(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    options = builders.kafka_options

    def of_little_patience(settings: Any) -> Any:
        return replace(options(settings), bootstrap_timeout_ms=200)

    monkeypatch.setattr(builders, "kafka_options", of_little_patience)
    where = f"127.0.0.1:{free_port()}"
    line = refused("up", "demo", "--stream", f"kafka://{where}/topic", "--set", f"home={tmp_path}")
    assert where in line


def test_a_certificate_that_is_none(tmp_path: Path) -> None:
    """Seen where no broker is asked."""
    (tmp_path / "ca.pem").write_text("not in PEM")
    stream = ["kind=kafka", 'bootstrap="127.0.0.1:1"', "security_protocol=SSL", f"ssl_cafile={tmp_path}/ca.pem"]
    sets = [part for each in stream for part in ("--set", f"stream.{each}")]
    line = refused("config", "validate", "demo", *sets)
    assert "ssl_cafile" in line and "ca.pem" in line and "PEM" in line


def test_missing_config() -> None:
    assert "no-such.yaml" in refused("up", "no-such.yaml")


def test_port_in_use(tmp_path: Path) -> None:
    """As a user runs it."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        done = run("up", "demo", "--set", f"serving.port={port}", "--set", f"home={tmp_path}")
    assert done.returncode == 2, (done.stdout, done.stderr)
    assert str(port) in only_line(done.stderr)
    assert not [p for p in psutil.Process().children(recursive=True) if "ray" in p.name()]


@pytest.mark.parametrize("command", [["status"], ["route", "hello"], ["domains", "list"], ["domains", "remove", "x"]])
def test_no_service(command: list[str]) -> None:
    assert "no answer" in refused(*command, "--url", f"http://127.0.0.1:{free_port()}")


def test_feed_without_file() -> None:
    assert "nothing.jsonl" in refused("feed", "nothing.jsonl")


def test_unknown_benchmark() -> None:
    line = refused("bench", "nothing")
    assert "router" in line and "continual" in line


def test_a_benchmark_may_be_a_package() -> None:
    line = refused("bench", "continual", "--data", "no-such-folder", "--dry-run")
    assert "no-such-folder: expected tasks" in line


def test_config_validate() -> None:
    done = CliRunner().invoke(app, ["config", "validate", "demo"])
    assert done.exit_code == 0, done.stderr
