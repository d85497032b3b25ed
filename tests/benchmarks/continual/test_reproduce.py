"""The commands of docs/reproduce.md are commands of the benchmark, and its settings files can be used."""

import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import pytest

from benchmarks.continual.__main__ import main, parser, planned
from benchmarks.continual.plan import ORDERS, SETTINGS, labelled, orders_of, read_settings, variants
from cluster.errors import ClusterError
from tests.architecture.sources import REPOSITORY
from tests.benchmarks.continual.small_stream import write_stream

DOCUMENT = REPOSITORY / "docs" / "reproduce.md"
SETTINGS_FILES = sorted((REPOSITORY / "benchmarks").glob("continual*.yaml"))


def command_lines() -> Iterator[str]:
    for block in re.findall(r"^```sh\n(.*?)^```", DOCUMENT.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL):
        yield from block.splitlines()


def test_there_is_a_command_for_each_published_table() -> None:
    named = {name for line in command_lines() for name in re.findall(r"--order (\S+)", line)}
    assert named == set(ORDERS)


@pytest.mark.parametrize("line", list(command_lines()))
def test_every_command_can_be_run(
    line: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(REPOSITORY)
    words = shlex.split(line)
    assert words[:3] == ["anabranch", "bench", "continual"]
    main([*words[3:], "--dry-run"])
    assert re.search(r"\d+ courses, \d+ cells", capsys.readouterr().out)


def test_published_orders_have_each_task_once() -> None:
    assert {name: len(order) for name, order in ORDERS.items()} == {
        **dict.fromkeys(("trace-1", "trace-2"), 8),
        **dict.fromkeys(("olora-1", "olora-2", "olora-3"), 4),
        **dict.fromkeys(("olora-4", "olora-5", "olora-6"), 15),
    }
    for suite in ("trace", "olora"):
        for size in (4, 8, 15):
            alike = [set(order) for name, order in ORDERS.items() if name.startswith(suite) and len(order) == size]
            assert all(each == alike[0] and len(each) == size for each in alike)


@pytest.mark.parametrize("path", SETTINGS_FILES, ids=lambda path: path.name)
def test_settings_are_read_and_their_sweeps_are_over_settings_they_have(path: Path) -> None:
    settings = read_settings(path)
    for name, method in settings["methods"].items():
        assert "kind" in method
        for label, variant in variants(name, method).items():
            assert label.startswith(f"{name} ") and set(method["sweep"]) <= set(variant)


def test_a_setting_may_be_given_instead_of_the_files(tmp_path: Path) -> None:
    write_stream(tmp_path)
    arguments = [
        "--data",
        str(tmp_path),
        "--set",
        "methods.joint.train_from=2",
        "--set",
        "methods.lora.learning_rate=1e-3",
    ]
    plan, methods = planned(parser().parse_args(arguments))
    assert methods["joint"] == {**read_settings(SETTINGS)["methods"]["joint"], "train_from": 2}
    assert plan.methods["lora learning_rate=0.001"]["learning_rate"] == 1e-3


def test_labels_name_the_settings_that_are_swept() -> None:
    methods = {"lora": {"kind": "lora", "learning_rate": 0.1, "rank": 2, "sweep": {"learning_rate": [0.1, 0.2]}}}
    assert labelled(methods, ()) == {"lora learning_rate=0.1": {"kind": "lora", "learning_rate": 0.1, "rank": 2}}
    assert list(variants("lora", methods["lora"])) == ["lora learning_rate=0.1", "lora learning_rate=0.2"]


def test_further_orders_are_the_same_in_every_run() -> None:
    tasks = ("a", "b", "c", "d")
    first, second = orders_of([], tasks, 2)
    assert first == tasks and sorted(second) == sorted(tasks) and orders_of([], tasks, 2) == (first, second)
    assert orders_of(["trace-2", "b,a"], tasks, 1) == (ORDERS["trace-2"], ("b", "a"))


def test_what_is_asked_for_wrongly_is_told(tmp_path: Path) -> None:
    write_stream(tmp_path)
    data = ["--data", str(tmp_path)]
    for arguments, message in (
        (["--methods", "magic"], "method 'magic': expected one of"),
        (["--routers", "magic"], "router 'magic': expected one of"),
        (["--metric", "heat"], "--metric heat: expected TASK=NAME"),
        (["--settings", str(tmp_path / "none.yaml")], "expected a YAML file"),
        (["--set", "training"], "--set training: expected KEY=VALUE"),
        (["--set", "trainings.max_steps=3"], "got ['trainings'] as well"),
    ):
        with pytest.raises(ClusterError, match=re.escape(message)):
            planned(parser().parse_args([*data, *arguments]))


def test_unknown_sections_of_settings_are_told(tmp_path: Path) -> None:
    path = tmp_path / "own.yaml"
    path.write_text(SETTINGS.read_text() + "\nfeature: {}\n")
    with pytest.raises(ClusterError, match=r"got \['feature'\] as well"):
        read_settings(path)
