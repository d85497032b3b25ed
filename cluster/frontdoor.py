"""The replicas on Ray Serve: each process holds one engine, its scorer and the whole OpenAI surface.

Serve gives HTTP, load balancing, health checks and replacement; the application behind it is `serving`'s, built when
the replica starts. So a request crosses one process border, and routing costs no remote call.
"""

from __future__ import annotations

import os
import uuid
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any

from ray import serve
from ray.serve import Application
from ray.serve.config import AutoscalingConfig, HTTPOptions
from ray.serve.handle import DeploymentHandle
from starlette.types import Receive, Scope, Send

from cluster.remote import AsyncRemote
from configs.settings import Serving, Settings
from serving.late_application import LateApplication

if TYPE_CHECKING:
    from serving.service import RoutedService

APPLICATION = LateApplication()


class _OfThisProcess:
    """The application of whichever process it is called in: Serve copies what it is given into the replica's."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        from cluster import frontdoor

        await frontdoor.APPLICATION(scope, receive, send)


Start = Callable[[Settings], Awaitable["RoutedService"]]


@serve.deployment
@serve.ingress(_OfThisProcess())
class FrontDoor:
    """One replica: engine, scorer, leases, HTTP."""

    async def __init__(  # type: ignore[misc] # Serve awaits it
        self, settings: Settings, system: DeploymentHandle[Any] | None = None, start: Start | None = None
    ) -> None:
        from actors.replica import Replica
        from cluster import builders, frontdoor, names
        from cluster.control import ClusterControl
        from serving.frontdoor import build_app

        if system is not None:
            await system.ready.remote()
        service = await (start or _on_vllm)(settings)
        name = f"replica-{os.getpid()}-{uuid.uuid4().hex[:6]}"
        self._replica = Replica(name, service, AsyncRemote.named(names.DIRECTORY))
        await self._replica.join(2 * settings.serving.prepare_timeout_seconds)
        control = ClusterControl(settings, AsyncRemote.named(names.COORDINATOR))
        access = builders.access(settings, name, AsyncRemote.named(names.METER))
        frontdoor.APPLICATION.inner = build_app(service, control, access)

    async def check_health(self) -> None:
        """Serve replaces a replica whose health check raises."""
        if self._replica.fatal is not None:
            raise RuntimeError(f"fenced: {self._replica.fatal}")
        if not self._replica.service.ready:
            raise RuntimeError(f"not ready: {self._replica.service.health()}")

    async def __del__(self) -> None:
        await self._replica.leave()


async def _on_vllm(settings: Settings) -> RoutedService:
    from cluster import builders
    from serving.service import RoutedService

    return await RoutedService.start(
        builders.engine_options(settings),
        builders.registry(settings),
        builders.extractor_for(settings),
        builders.base_revision(settings),
        max_prompts=settings.serving.max_prompts,
        drain_seconds=settings.serving.drain_seconds,
        conversation_margin=settings.serving.conversation_margin,
    )


def application(settings: Settings, system: Application | None = None, start: Start | None = None) -> Application:
    """Return the Serve application of all replicas; `system`, where given, is what must be ready before them.

    `start` makes each replica's service; None is one on vLLM.
    """
    serving = settings.serving
    deployment: Any = FrontDoor
    bound: Application = deployment.options(
        **_replicas(serving),
        max_ongoing_requests=max(4 * serving.max_num_seqs, 64),
        # Serve takes a replica out when it has failed three times: until then a fenced one refuses what it is given.
        health_check_period_s=1,
        health_check_timeout_s=30,
        # One that leaves gets nothing new and ends with its last request.
        graceful_shutdown_timeout_s=serving.finish_seconds,
        graceful_shutdown_wait_loop_s=0.5,
        ray_actor_options={"num_cpus": serving.num_cpus, "num_gpus": serving.num_gpus},
        logging_config={"enable_access_log": False, "log_level": "WARNING"},
    ).bind(settings, system, start)
    return bound


def _replicas(serving: Serving) -> dict[str, Any]:
    """Return how many replicas Serve is to keep: in a range one for each half of what an engine computes at once, more
    at once where they are short, fewer after `idle_seconds`."""
    scale = serving.replicas
    if scale.is_fixed:
        return {"num_replicas": scale.most}
    autoscaling = AutoscalingConfig(
        min_replicas=scale.fewest,
        max_replicas=scale.most,
        target_ongoing_requests=serving.max_num_seqs / 2,
        upscale_delay_s=10,
        downscale_delay_s=serving.idle_seconds,
        look_back_period_s=min(30.0, serving.idle_seconds),
    )
    return {"autoscaling_config": autoscaling}


def http_options(settings: Settings, port: int) -> HTTPOptions:
    """Return where Serve listens."""
    return HTTPOptions(host=settings.serving.host, port=port)
