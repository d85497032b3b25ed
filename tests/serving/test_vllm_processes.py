"""The engine's processes end with the one that owns them, however that ends."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

pytestmark = pytest.mark.vllm

OWNER = """
import asyncio, os, sys
from serving.vllm_engine import VllmEngine
from tests.serving.stage import TEMPLATE, options
from pathlib import Path

async def main():
    engine = await VllmEngine.start(options(Path(sys.argv[1])), TEMPLATE)
    print("up", flush=True)
    await asyncio.sleep(600)

if __name__ == "__main__":
    asyncio.run(main())
"""


def alive(pids: list[int]) -> list[int]:
    return [pid for pid in pids if psutil.pid_exists(pid) and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE]


@pytest.mark.parametrize("how", [signal.SIGKILL])
def test_a_killed_owner_takes_its_engine_with_it(
    shared: Path, repository: Path, tmp_path: Path, how: signal.Signals
) -> None:
    script = tmp_path / "owner.py"
    script.write_text(OWNER)
    environment = {**os.environ, "PYTHONPATH": str(repository)}
    command = [sys.executable, str(script), str(shared / "models" / "stories260K")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, env=environment, text=True) as p:
        children: list[int] = []
        try:
            assert p.stdout is not None
            while (line := p.stdout.readline()) and line.strip() != "up":
                pass
            children = [child.pid for child in psutil.Process(p.pid).children(recursive=True)]
            assert len(children) >= 1
        finally:
            p.send_signal(how)
        p.wait(10)
    try:
        deadline = time.monotonic() + 10
        while alive(children) and time.monotonic() < deadline:
            time.sleep(0.05)
        assert alive(children) == []
    finally:
        for pid in alive(children):
            os.kill(pid, signal.SIGKILL)
