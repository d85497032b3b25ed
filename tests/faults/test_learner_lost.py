"""A learner's node lost in the midst of a training, where the nodes share nothing but the bucket of the registry."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from actors.spool_folder import private_folder
from cluster import builders
from configs.loader import load
from registry.storage import Storage
from streaming.broker import ApacheKafkaBroker
from streaming.location import ensure_topic
from tests.e2e.system import System
from tests.faults.nodes import Nodes, may_mount
from tests.faults.settling import ask
from tests.registry.server import BUCKET, s3_server

pytestmark = [pytest.mark.ray, pytest.mark.broker, pytest.mark.store, pytest.mark.slow, pytest.mark.timeout(1200)]

COMMAND = [sys.executable, "-m", "tests.faults.program"]
DOMAIN = "it-helpdesk"
STEPS = 100
SETS = [
    "ray.num_cpus=null",
    "ray.object_store_bytes=null",
    "ray.placement=spread",
    "stream.partitions=1",
    "stream.session_timeout_ms=6000",
    "ingest.workers=1",
    "ingest.num_cpus=0.1",
    "router.num_cpus=0.1",
    "learner.workers=2",
    "learner.num_cpus=0.1",
    "features.expansion=256",
    f"learner.max_steps={STEPS}",
    "learner.patience=null",
    f"learner.evaluate_every={STEPS // 2}",
    "learner.checkpoint_seconds=0.01",
]


@pytest.fixture
def bucket(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    (tmp_path / "s3").mkdir()
    with s3_server(tmp_path / "s3") as environment:
        for name, value in environment.items():
            monkeypatch.setenv(name, value)
        yield f"s3://{BUCKET}/live"


def test_the_training_goes_on_elsewhere(
    tmp_path: Path, repository: Path, broker: ApacheKafkaBroker, bucket: str
) -> None:
    """From what the lost one had kept in the bucket; and what comes of it is taken in, and served, from there too."""
    lines = (repository / "examples" / "stream" / f"{DOMAIN}.train.jsonl").read_text(encoding="utf-8").splitlines()
    (tmp_path / "rows.jsonl").write_text("\n".join(lines[:200]) + "\n", encoding="utf-8")
    if not may_mount():
        pytest.skip("this user may not give a process mounts of its own")
    home = tmp_path / "home"
    with Nodes(2, cpus=4, own=[home, private_folder()]) as nodes:
        sets = [*SETS, "stream.kind=kafka", f"stream.bootstrap={broker.bootstrap}", "stream.topic=live"]
        sets += [f"registry.url={bucket}", f"ray.address={nodes.address}"]
        settings = load("demo", [f"home={home}", *sets])
        location = builders.stream_location(settings)
        ensure_topic(location, 1)
        system = System("demo", home, sets, COMMAND)
        try:
            system.start(400)
            system.feed(tmp_path / "rows.jsonl")
            system.wait_for(lambda: _step(system) > 10, 300, "steps", 0.02)
            # The first of the pool trains; else nothing would be gone on with.
            (node,) = {each.node for each in nodes.processes() if each.actor == "learner-0"}
            nodes.lose(node)
            nodes.join()
            system.wait_for(lambda: bool(_domain(system).get("version")), 400, "published")
            (version,) = _domain(system)["versions"]
            assert version["figures"]["resumed_from"] > 0 and version["figures"]["steps"] == STEPS, version
            answer = system.ask("hello", DOMAIN)
            assert answer.headers["x-anabranch-adapter"] == version["name"]
            storage = builders.storage(settings)
            system.wait_for(lambda: not _left(storage), 60, "nothing left of what is done")
            assert not (home / "registry").exists() and not (home / "work").exists(), "other nodes have their own"
        finally:
            system.stop()


def _domain(system: System) -> dict[str, Any]:
    return next((each for each in ask(system, "/v1/status").get("domains", ()) if each["domain"] == DOMAIN), {})


def _step(system: System) -> int:
    return int((_domain(system).get("progress") or {}).get("step", 0))


def _left(storage: Storage) -> list[str]:
    return [each.key for folder in ("trained", "unfinished") for each in storage.entries(folder)]
