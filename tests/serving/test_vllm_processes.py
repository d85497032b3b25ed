"""The engine's processes end with the one that owns them, however that ends."""

import asyncio
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from learning.features import FeatureExtractor
from registry.manifest import Manifest
from registry.registry import Registry
from serving.errors import EngineFailed, Unavailable
from serving.service import RoutedService
from serving.vllm_engine import VllmEngine
from tests.serving.publisher import BASE
from tests.serving.stage import TEMPLATE, options

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


def test_a_killed_owner_takes_its_engine_with_it(shared: Path, repository: Path, tmp_path: Path) -> None:
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
            p.kill()
        p.wait(10)
    try:
        deadline = time.monotonic() + 10
        while alive(children) and time.monotonic() < deadline:
            time.sleep(0.05)
        assert alive(children) == []
    finally:
        for pid in alive(children):
            os.kill(pid, signal.SIGKILL)


async def test_a_dead_engine_is_told_and_stop_leaves_no_process(shared: Path, tmp_path: Path) -> None:
    """The engine's process dies under a request: the request ends, the replica is not ready, nothing hangs."""
    before = {child.pid for child in psutil.Process().children(recursive=True)}
    service = await RoutedService.start(
        options(shared / "models" / "stories260K"), Registry(tmp_path), no_features, BASE
    )
    own = [child for child in psutil.Process().children(recursive=True) if child.pid not in before]
    # Without what the engine was forked from, which may be there from a test before.
    engines = [child for child in own if "resource_tracker" not in " ".join(child.cmdline()) and not child.children()]
    assert len(engines) == 1 and service.ready
    body = {"model": "base", "prompt": "once", "max_tokens": 240, "ignore_eos": True, "stream": True}
    reply = await service.complete(body)
    assert reply.events is not None
    await anext(reply.events)
    engines[0].kill()
    rest = [event async for event in reply.events]
    assert "error" in rest[-2] and rest[-1] == "data: [DONE]\n\n"
    while service.engine.failure is None:
        await asyncio.sleep(0.01)
    assert not service.ready
    with pytest.raises(Unavailable):
        await service.complete({"model": "base", "prompt": "once"})
    await service.stop()
    await service.stop()
    assert service.engine.failure == "stopped" and alive([engine.pid for engine in engines]) == []


async def test_nothing_is_compiled_on_a_fresh_machine(
    shared: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Log probabilities, sampling and a schema leave the compilers' folders as empty as they were."""
    folders = {name: tmp_path / name for name in ("TORCHINDUCTOR_CACHE_DIR", "VLLM_CACHE_ROOT")}
    for name, folder in folders.items():
        monkeypatch.setenv(name, str(folder))
    monkeypatch.delenv("TORCHDYNAMO_DISABLE", raising=False)
    engine = await VllmEngine.start(options(shared / "models" / "stories260K"), TEMPLATE)
    try:
        await engine.probe(None)
        for more in (
            {"logprobs": 2},
            {"prompt_logprobs": 1},
            {"top_k": 5, "top_p": 0.5, "temperature": 1.0, "seed": 1},
        ):
            body = {"prompt": "once", "max_tokens": 2, "n": 2, **more}
            assert isinstance(await engine.generate(engine.parse("completion", body), None), dict)
    finally:
        await engine.stop()
    compiled = [path for folder in folders.values() for path in folder.rglob("*.so")]
    assert compiled == []


async def test_a_model_that_is_not_there_is_one_clear_error(tmp_path: Path) -> None:
    with pytest.raises(EngineFailed, match=str(tmp_path)):
        await VllmEngine.start(options(tmp_path), TEMPLATE)


def no_features(manifest: Manifest) -> FeatureExtractor:
    raise AssertionError(f"nothing is published, yet features for {manifest.number} are asked for")
