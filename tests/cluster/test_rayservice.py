"""The system as Serve runs it from an import path, as in a RayService: it comes up, serves, and ends with Serve."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = [pytest.mark.ray, pytest.mark.vllm, pytest.mark.timeout(400)]

SCRIPT = """
import json, sys
import httpx, ray
from ray import serve
from cluster.rayservice import build
from configs.loader import load
from streaming.broker import free_port

port = free_port()
arguments = {"config": "demo", "set": [f"home={sys.argv[1]}", f"serving.replica_port={port}"]}
settings = load(arguments["config"], arguments["set"])
ray.init(address="local", num_cpus=settings.ray.num_cpus, include_dashboard=False, log_to_driver=False)
try:
    serve.start(proxy_location="Disabled")
    serve.run(build(arguments), name="cluster", route_prefix=None)
    # There is no front door of ours: whoever has one leads it to the node.
    url = f"http://{ray.util.get_node_ip_address()}:{port}"
    assert httpx.get(f"{url}/readyz", timeout=30).status_code == 200
    status = httpx.get(f"{url}/v1/status", timeout=60).json()
    print(json.dumps({"manifest": status["manifest"], "replicas": len(status["replicas"])}))
    serve.delete("cluster")
finally:
    ray.shutdown()
"""


def test_comes_up_from_its_import_path(tmp_path: Path, repository: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, str(tmp_path / "home")],
        cwd=repository,
        capture_output=True,
        text=True,
        timeout=360,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert '{"manifest": 0, "replicas": 1}' in done.stdout.splitlines()
