"""The stand-in outside Ray, as its script starts it: clients get an answer, whatever becomes of what is behind."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.deploy.manifests import DEPLOY

pytestmark = pytest.mark.slow

BEHIND = """
import os, sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

class Handler(BaseHTTPRequestHandler):
    def do_DELETE(self):
        os._exit(1)

    def do_GET(self):
        self.send_response(200)
        self.send_header("content-length", "2")
        self.end_headers()
        self.wfile.write(b"{}")

ThreadingHTTPServer(("127.0.0.1", int(sys.argv[1])), Handler).serve_forever()
"""


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.fixture
def behind() -> int:
    """A port at which nothing listens yet."""
    return free_port()


@pytest.fixture
def url(behind: int) -> Iterator[str]:
    listen = f"127.0.0.1:{free_port()}"
    surroundings = {
        **os.environ,
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
    }
    standin = subprocess.Popen(
        [str(DEPLOY / "standin.sh"), listen, f"127.0.0.1:{behind}"], env=surroundings, stderr=subprocess.DEVNULL
    )
    try:
        yield f"http://{listen}"
    finally:
        standin.terminate()
        standin.wait(20)


def wait_for(url: str, status: int) -> httpx.Response:
    deadline, answer = time.monotonic() + 20, None
    while time.monotonic() < deadline:
        try:
            answer = httpx.get(f"{url}/v1/models", timeout=10)
        except httpx.ConnectError:
            time.sleep(0.1)
            continue
        if answer.status_code == status:
            return answer
        time.sleep(0.1)
    raise AssertionError(f"expected {status}, got {answer}")


def error(answer: httpx.Response) -> dict[str, Any]:
    assert answer.headers["content-type"] == "application/json"
    found: dict[str, Any] = answer.json()["error"]
    assert found["message"] and found["code"] == answer.status_code
    return found


def test_it_answers_while_nothing_is_behind_it_and_leads_there_again(url: str, behind: int) -> None:
    answer = wait_for(url, 503)
    assert error(answer)["type"] == "ServiceUnavailableError" and int(answer.headers["retry-after"]) > 0
    for _ in range(2):
        head = subprocess.Popen([sys.executable, "-c", BEHIND, str(behind)], stderr=subprocess.DEVNULL)
        try:
            assert wait_for(url, 200).json() == {}
            # Whether it was done nobody knows: no word of trying again.
            cut = httpx.delete(f"{url}/dies", timeout=10)
            assert error(cut)["code"] == 502 and "retry-after" not in cut.headers
        finally:
            head.kill()
            head.wait(20)
        wait_for(url, 503)
