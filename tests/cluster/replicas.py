"""Replicas on the memory engine for Serve to start: what they do with a request is told by the request."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncGenerator, Callable
from types import SimpleNamespace
from typing import Any

from cluster import builders
from configs.settings import Settings
from registry.manifest import Manifest
from serving.engine import Answer, Call, LoadedAdapter
from serving.service import RoutedService
from tests.serving.conftest import PlainTemplate
from tests.serving.memory_engine import MemoryEngine


class SlowEngine(MemoryEngine):
    """Takes `seconds` for an answer, or from each of its events to the next; its answers' `id` is the process's."""

    async def generate(
        self, call: Call, adapter: LoadedAdapter | None, done: Callable[[], None] = lambda: None
    ) -> Answer:
        seconds = float(call.body.get("seconds", 0))
        answer = await super().generate(call, adapter, done)
        if isinstance(answer, dict):
            await asyncio.sleep(seconds)
            return {**answer, "id": str(os.getpid())}
        return self._slowly(answer, seconds)

    async def _slowly(self, events: AsyncGenerator[str, None], seconds: float) -> AsyncGenerator[str, None]:
        async for event in events:
            yield event.replace("memory-base", str(os.getpid()))
            await asyncio.sleep(seconds)


async def on_memory(settings: Settings) -> RoutedService:
    """A service on a slow engine, once the file `go` lies in the home folder."""
    while not (settings.home / "go").exists():
        await asyncio.sleep(0.1)
    template: Any = PlainTemplate()
    service = RoutedService(
        SlowEngine(),
        builders.registry(settings),
        _unasked,
        template,
        settings.serving,
        builders.base_revision(settings),
    )
    await service.catch_up()
    return service


def _unasked(manifest: Manifest) -> Any:
    """An extractor that is never asked for features."""
    return SimpleNamespace(fingerprint=manifest.router.fingerprint if manifest.router else "")
