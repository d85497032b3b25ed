"""The replicas on Ray Serve: each process holds one engine, its scorer, the whole OpenAI surface and its own server.

Serve starts, health-checks, scales and replaces them; requests don't pass through it. HAProxy leads them to where each
replica listens (`serving.balancer`), so routing costs no remote call and an answer no hop but that one.
"""

from __future__ import annotations

import asyncio
import os
import time
import uuid
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import ray
from ray import serve
from ray.serve import Application
from ray.serve.config import AutoscalingConfig, AutoscalingContext, AutoscalingPolicy
from ray.serve.handle import DeploymentHandle

from cluster.remote import AsyncRemote
from configs.settings import Serving, Settings
from serving.haproxy import SEEN_AFTER_S

if TYPE_CHECKING:
    from serving.service import RoutedService

Start = Callable[[Settings], Awaitable["RoutedService"]]

_IN_FLIGHT = "in_flight"


@serve.deployment
class FrontDoor:
    """One replica: engine, scorer, leases, HTTP."""

    async def __init__(  # type: ignore[misc] # Serve awaits it
        self, settings: Settings, system: DeploymentHandle[Any] | None = None, start: Start | None = None
    ) -> None:
        from actors.replica import Replica
        from cluster import builders, names
        from cluster.control import ClusterControl
        from serving.frontdoor import build_app
        from serving.listener import Listener

        if system is not None:
            await system.ready.remote()
        service = await (start or _on_vllm)(settings)
        self._service = service
        service.away = True
        self._finish_s = settings.serving.finish_seconds
        name = f"replica-{os.getpid()}-{uuid.uuid4().hex[:6]}"
        access = builders.access(settings, name, AsyncRemote.named(names.METER))
        app = self._app = build_app(service, ClusterControl(settings, AsyncRemote.named(names.COORDINATOR)), access)
        # Where all is on one machine, nobody else is to come in beside the front door.
        host = "127.0.0.1" if settings.ray.address is None and system is None else _own_address()
        self._listener = await Listener.start(app, host, settings.serving.replica_port)
        self._replica = Replica(name, service, AsyncRemote.named(names.DIRECTORY), self._listener.address)
        await self._replica.join(2 * settings.serving.prepare_timeout_seconds)
        service.away = False
        # Serve may end another as soon as this one stands: HAProxy is to know that it is ready.
        await self._listener.asked(SEEN_AFTER_S)

    async def check_health(self) -> None:
        """Serve replaces a replica whose health check raises."""
        if self._replica.fatal is not None:
            raise RuntimeError(f"fenced: {self._replica.fatal}")
        if not self._replica.service.ready:
            raise RuntimeError(f"not ready: {self._replica.service.health()}")

    def record_autoscaling_stats(self) -> dict[str, float]:
        """Tell Serve of the requests, which it does not see."""
        # Whoever looks at the page is no load.
        return {_IN_FLIGHT: float(self._listener.in_flight - self._app.state.watch.watchers)}

    async def __del__(self) -> None:
        ends = time.monotonic() + self._finish_s
        self._service.away = True
        await asyncio.sleep(min(SEEN_AFTER_S, self._finish_s / 2))
        # Serve ends the process at its own deadline, which is the same.
        await self._listener.close(ends - time.monotonic() - 1.0)
        await self._replica.leave()


def _own_address() -> str:
    address: str = ray.util.get_node_ip_address()  # type: ignore[no-untyped-call]
    return address


async def _on_vllm(settings: Settings) -> RoutedService:
    from cluster import builders
    from serving.service import RoutedService

    layers = builders.hosted_layers(settings)
    return await RoutedService.start(
        builders.engine_options(settings),
        builders.registry(settings),
        builders.extractor_for(settings, layers),
        builders.base_revision(settings),
        max_prompts=settings.serving.max_prompts,
        drain_seconds=settings.serving.drain_seconds,
        conversation_margin=settings.serving.conversation_margin,
        top_k=settings.serving.top_k,
        hot=asyncio.ensure_future(_hot()),
        layers=layers,
        decisions=settings.serving.decisions,
        tracing=settings.serving.tracing,
    )


async def _hot() -> list[str]:
    """Return the adapters that other replicas have used lately; none where that is not to be learned soon, as when the
    whole system starts."""
    from cluster import names

    with suppress(Exception):
        used: list[str] = await AsyncRemote.named(names.DIRECTORY).used()
        return used
    return []


def application(settings: Settings, system: Application | None = None, start: Start | None = None) -> Application:
    """Return the Serve application of all replicas; `system`, where given, is what must be ready before them.

    `start` makes each replica's service; None is one on vLLM.
    """
    serving = settings.serving
    deployment: Any = FrontDoor
    bound: Application = deployment.options(
        **_replicas(serving),
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
        policy=AutoscalingPolicy(policy_function=_by_load),  # type: ignore[no-untyped-call]
        upscale_delay_s=10,
        downscale_delay_s=serving.idle_seconds,
        look_back_period_s=min(30.0, serving.idle_seconds),
    )
    return {"autoscaling_config": autoscaling}


def _by_load(context: AutoscalingContext) -> tuple[float, dict[str, Any]]:
    """Return how many replicas the requests in flight at all of them want; Serve keeps bounds and delays."""
    told: dict[Any, float] = (context.aggregated_metrics or {}).get(_IN_FLIGHT, {})
    assert context.config is not None
    return sum(told.values()) / context.config.target_ongoing_requests, {}
