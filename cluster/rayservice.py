"""The system as one Serve application, for deployments where Serve is told what to run (KubeRay's RayService).

`import_path: cluster.rayservice:build` with the arguments `config` (a preset or a YAML file) and `set` (overrides). A
deployment of its own owns the actors, so that they live and die with the application; the replicas wait for it. Nothing
is refused for want of nodes: what waits for them makes an autoscaler add some.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

from ray import serve
from ray.serve import Application

from actors.making import Making
from cluster.actor_group import ActorGroup
from cluster.frontdoor import application
from cluster.preflight import check_surroundings
from configs.loader import load
from configs.settings import Settings


@serve.deployment(num_replicas=1, ray_actor_options={"num_cpus": 0})
class System:
    """Owner and supervisor of the actors. What it needs may be away when it starts: it comes to be behind itself, and
    says why not as its health."""

    def __init__(self, settings: Settings) -> None:
        self._making = Making(lambda: _Owned(settings))

    async def ready(self) -> bool:
        """Return once the actors are started."""
        await asyncio.wrap_future(self._making.made)
        return True

    def check_health(self) -> None:
        """Raise what keeps it from coming to be, for Serve's status."""
        if not self._making.made.done() and self._making.vitals().failures > 2:
            raise self._making.not_made()

    def __del__(self) -> None:
        if self._making.made.done():
            self._making.made.result().stop()


class _Owned:
    """The actors while they run, with their supervisor and the lock on the home folder."""

    def __init__(self, settings: Settings) -> None:
        self._lock = check_surroundings(settings)
        try:
            self._actors = ActorGroup(settings)
            self._supervisor = self._actors.supervised()
        except BaseException:
            self._lock.release()
            raise
        self._supervisor.start()

    def stop(self) -> None:
        self._supervisor.stop()
        self._actors.stop()
        self._lock.release()


def build(arguments: dict[str, Any]) -> Application:
    """Return the whole system for Serve to run."""
    overrides: Sequence[str] = arguments.get("set", [])
    settings = load(arguments["config"], overrides)
    return application(settings, System.bind(settings))  # type: ignore[attr-defined]
