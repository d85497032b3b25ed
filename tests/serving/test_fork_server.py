"""The server that an engine's process is forked from: it ends with its owner, and leaves the environment as it was."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

OWNER = """
import json, os, sys, time
from multiprocessing import forkserver
from serving import fork_server

# Light ones: what vLLM's take is of no matter here.
fork_server._IMPORTS = ["json"]

def tell(path):
    with open(path, "w") as file:
        json.dump(dict(os.environ), file)

if __name__ == "__main__":
    before = dict(os.environ)
    os.environ["GONE_SINCE"] = "1"
    fork_server.start()
    server = forkserver._forkserver._forkserver_pid
    del os.environ["GONE_SINCE"]
    os.environ["NEW_SINCE"] = "a second engine's"
    fork_server.start()
    assert forkserver._forkserver._forkserver_pid == server
    child = fork_server._Context().Process(target=tell, args=(sys.argv[1],))
    child.start()
    child.join()
    del os.environ["NEW_SINCE"]
    assert dict(os.environ) == before, "the environment has changed"
    print(server, flush=True)
    time.sleep(600)
"""


@pytest.mark.parametrize("preload", [None, ""])
def test_it_ends_with_a_killed_owner_and_forks_into_the_present_environment(
    repository: Path, tmp_path: Path, preload: str | None
) -> None:
    script, told = tmp_path / "owner.py", tmp_path / "environment.json"
    script.write_text(OWNER)
    environment = {**os.environ, "PYTHONPATH": str(repository)}
    if preload is not None:
        environment["LD_PRELOAD"] = preload
    command = [sys.executable, str(script), str(told)]
    server = None
    with subprocess.Popen(command, stdout=subprocess.PIPE, env=environment, text=True) as owner:
        try:
            assert owner.stdout is not None
            server = psutil.Process(int(owner.stdout.readline()))
        finally:
            owner.kill()
    try:
        deadline = time.monotonic() + 30
        while server.is_running() and server.status() != psutil.STATUS_ZOMBIE and time.monotonic() < deadline:
            time.sleep(0.02)
        assert not server.is_running() or server.status() == psutil.STATUS_ZOMBIE
    finally:
        if server.is_running():
            os.kill(server.pid, signal.SIGKILL)
    seen = told.read_text()
    assert "NEW_SINCE" in seen and "GONE_SINCE" not in seen
