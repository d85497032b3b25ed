"""The system as one Serve application, for deployments where Serve is told what to run (KubeRay's RayService).

`import_path: cluster.rayservice:build` with the arguments `config` (a preset or a YAML file) and `set` (overrides). A
deployment of its own owns the actors, so that they live and die with the application; the replicas wait for it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ray import serve
from ray.serve import Application

from cluster.actor_group import ActorGroup, check_resources
from cluster.frontdoor import application
from cluster.preflight import HomeLock, check_surroundings
from configs.loader import load
from configs.settings import Settings


@serve.deployment(num_replicas=1, ray_actor_options={"num_cpus": 0})
class System:
    """Owner of the actors."""

    def __init__(self, settings: Settings) -> None:
        # Both before anything can fail: `__del__` runs also for a constructor cut short.
        self._actors: ActorGroup | None = None
        self._lock: HomeLock | None = None
        self._lock = check_surroundings(settings)
        check_resources(settings)
        self._actors = ActorGroup(settings)

    def ready(self) -> bool:
        """Return once the actors are started."""
        return True

    def __del__(self) -> None:
        if self._actors is not None:
            self._actors.stop()
        if self._lock is not None:
            self._lock.release()


def build(arguments: dict[str, Any]) -> Application:
    """Return the whole system for Serve to run."""
    overrides: Sequence[str] = arguments.get("set", [])
    settings = load(arguments["config"], overrides)
    return application(settings, System.bind(settings))  # type: ignore[attr-defined]
