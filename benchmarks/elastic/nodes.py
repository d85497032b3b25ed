"""Simulated nodes: several raylets of one Ray cluster on this machine, each started by `ray start` as a machine is."""

from __future__ import annotations

import os
import random
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

import psutil

from cluster.runtime import _ENVIRONMENT

_STARTS_IN_S = 120.0
_PATIENT = {"RAY_raylet_start_wait_time_s": f"{_STARTS_IN_S:.0f}"}
"""On a busy machine a raylet takes longer than Ray would wait."""

_PORTS = (
    *("node-manager-port", "object-manager-port"),
    *("dashboard-agent-listen-port", "runtime-env-agent-port", "metrics-export-port"),
)
"""What each node listens on; left to choose, two that start at one time may choose the same."""


@contextmanager
def nodes(count: int) -> Iterator[str]:
    """A head without a CPU and `count` nodes of one CPU each; yields where drivers join. All goes down with it."""
    ports = _free_ports()
    port = next(ports)
    address = f"127.0.0.1:{port}"
    with tempfile.TemporaryDirectory(prefix="nodes-") as folder, ExitStack() as stack:
        log = Path(folder)
        head = ["--head", f"--port={port}", "--num-cpus=0", "--include-dashboard=false", f"--temp-dir={folder}/ray"]
        stack.enter_context(_node("head", head, ports, log))
        # One after another: two that start at one time take the same name for their sockets.
        for number in range(count):
            stack.enter_context(_node(f"node-{number}", [f"--address={address}", "--num-cpus=1"], ports, log))
        yield address


@contextmanager
def _node(name: str, options: list[str], ports: Iterator[int], log: Path) -> Iterator[None]:
    """One raylet with what belongs to it; yields once it runs."""
    command = [
        *(sys.executable, "-m", "ray.scripts.scripts", "start", "--block", "--disable-usage-stats"),
        "--include-log-monitor=false",
        *("--min-worker-port=0", "--max-worker-port=0", f"--object-store-memory={100 << 20}"),
        *(f"--{each}={next(ports)}" for each in _PORTS),
        *options,
    ]
    output = log / f"{name}.log"
    with output.open("wb") as file:
        process = subprocess.Popen(
            command, stdout=file, stderr=file, env={**_ENVIRONMENT, **_PATIENT, **os.environ}, start_new_session=True
        )
    try:
        deadline = time.monotonic() + _STARTS_IN_S
        while b"Ray runtime started" not in output.read_bytes():
            if process.poll() is not None or time.monotonic() > deadline:
                raise SystemExit(f"{name} does not start:\n{output.read_text()[-2000:]}")
            time.sleep(0.2)
        yield
    finally:
        _end(process)


def _free_ports() -> Iterator[int]:
    """Ports that nobody listens on, each once; below those that the kernel gives to whoever connects."""
    for port in random.sample(range(20_000, 32_768), 1000):
        with socket.socket() as probe:
            try:
                probe.bind(("", port))
            except OSError:
                continue
        yield port


def _end(process: subprocess.Popen[bytes]) -> None:
    family = [psutil.Process(process.pid)] if process.poll() is None else []
    family += [child for parent in family for child in parent.children(recursive=True)]
    for each in family:
        with suppress(psutil.NoSuchProcess):
            each.terminate()
    _, left = psutil.wait_procs(family, timeout=20)
    for each in left:
        with suppress(psutil.NoSuchProcess):
            each.kill()
    psutil.wait_procs(left, timeout=20)
