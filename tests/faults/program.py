"""The whole system but for the engine: `anabranch up` with a memory engine in the place of vLLM, to be killed often.

    python -m tests.faults.program KEY=VALUE ...

Real are Ray, every actor in a process of its own, the stream, the learner, the registry, publication and the front door
over HTTP; the tokens are made up, and prompts are answered by a domain's name only, not routed by content, so that this
process need not import torch. `GET /actors` tells of each actor by name its process, its state and how often it was
started again.
"""

from __future__ import annotations

import asyncio
import os
import sys
from types import SimpleNamespace
from typing import Any

import ray
import uvicorn

from actors.late import late
from actors.replica import Replica
from actors.supervision import Supervisor
from cluster import builders, names
from cluster.actor_group import ActorGroup
from cluster.control import ClusterControl
from cluster.preflight import check_surroundings, free_port
from cluster.remote import AsyncRemote
from cluster.runtime import _ENVIRONMENT
from configs.loader import load
from configs.settings import Settings
from registry.manifest import Manifest
from serving.frontdoor import build_app
from serving.service import RoutedService
from tests.serving.memory_engine import MemoryEngine


def main() -> None:
    """Run until a signal."""
    settings = load("demo", sys.argv[1:])
    lock = check_surroundings(settings)
    for name, value in _ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    alone = {
        "num_cpus": settings.ray.num_cpus,
        "object_store_memory": settings.ray.object_store_bytes,
        "include_dashboard": False,
    }
    ray.init(
        address=settings.ray.address or "local",
        **({} if settings.ray.address else alone),
        namespace=names.NAMESPACE,
        log_to_driver=bool(os.environ.get("ANABRANCH_LOG_TO_DRIVER")),
        logging_level="ERROR",
    )
    actors = ActorGroup(settings)
    supervisor = actors.supervised()
    supervisor.start()
    try:
        asyncio.run(_serve(settings, supervisor))
    finally:
        supervisor.stop()
        actors.stop()
        ray.shutdown()
        lock.release()


async def _serve(settings: Settings, supervisor: Supervisor) -> None:
    """Serve HTTP with one replica in this process."""
    service = RoutedService(
        MemoryEngine(),
        builders.registry(settings),
        _unasked,  # type: ignore[arg-type]
        late(lambda: builders.template(settings)),
        settings.serving,
        builders.base_revision(settings),
    )
    await service.catch_up()
    while supervisor.awaited():
        await asyncio.sleep(0.2)
    replica = Replica("replica-0", service, AsyncRemote.named(names.DIRECTORY))
    await replica.join(120)
    app = build_app(service, ClusterControl(settings, AsyncRemote.named(names.COORDINATOR)))
    app.get("/actors")(_actors)
    port = free_port(settings)
    server = uvicorn.Server(uvicorn.Config(app, port=port, log_level="warning", lifespan="off"))
    serving = asyncio.create_task(server.serve())
    while not server.started:
        await asyncio.sleep(0.05)
    print(f"ready: http://127.0.0.1:{port}/v1", flush=True)
    await serving
    await replica.leave()


def _unasked(manifest: Manifest) -> SimpleNamespace:
    """An extractor that is never asked for features."""
    return SimpleNamespace(fingerprint=manifest.router.fingerprint if manifest.router else "")


async def _actors() -> dict[str, dict[str, Any]]:
    """Of each actor by name: `pid`, Ray's word for its `state`, and `restarts`."""
    from ray._private.state import actors

    found: dict[str, dict[str, Any]] = await asyncio.to_thread(actors)
    return {
        each["Name"]: {"pid": each["Pid"], "state": each["State"], "restarts": each["NumRestarts"]}
        for each in found.values()
        if each["Name"]
    }


if __name__ == "__main__":
    main()
