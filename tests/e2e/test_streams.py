"""The same examples give the same result over every kind of stream: embedded log, Tansu, Apache Kafka."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from streaming.broker import ApacheKafkaBroker, TansuBroker, kafka_home
from tests.e2e.system import run

pytestmark = [pytest.mark.ray, pytest.mark.vllm, pytest.mark.broker, pytest.mark.slow, pytest.mark.timeout(900)]

QUICK = ["--domains", "2", "--set", "learner.max_steps=120", "--set", "learner.evaluate_every=40"]


@pytest.fixture(scope="module")
def embedded(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    return demo(tmp_path_factory.mktemp("embedded"), "embedded")


@pytest.fixture(params=["tansu", "apache"])
def broker(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    with ExitStack() as stack:
        if request.param == "tansu":
            yield stack.enter_context(TansuBroker(tmp_path / "broker")).bootstrap
            return
        home = kafka_home()
        if home is None:
            pytest.skip("no Apache Kafka: set KAFKA_HOME to a folder with libs/*.jar")
        yield stack.enter_context(ApacheKafkaBroker(home, tmp_path / "broker")).bootstrap


def demo(folder: Path, stream: str) -> dict[str, Any]:
    """Run a short demo over a stream and return its report."""
    done = run("demo", "--out", str(folder), "--stream", stream, *QUICK, timeout=600)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-3000:]
    report: dict[str, Any] = json.loads((folder / "report.json").read_text())
    assert report["failed_requests"] == 0
    return report


def accuracies(report: dict[str, Any]) -> dict[str, Any]:
    """What must not depend on the stream."""
    return {key: report[key] for key in ("domains", "by_domain", "routed_to")}


def test_same_accuracies(embedded: dict[str, Any], broker: str, tmp_path: Path) -> None:
    over_broker = demo(tmp_path / "demo", f"kafka://{broker}/examples")
    assert accuracies(over_broker) == accuracies(embedded)
