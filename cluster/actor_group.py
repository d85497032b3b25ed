"""The actors of one system as remote actors: started, found by name, stopped."""

from __future__ import annotations

from contextlib import suppress
from typing import Any

import ray

from cluster import names
from cluster.actor_host import ActorHost, AsyncActorHost
from cluster.errors import ClusterError
from configs.settings import Settings


class ActorGroup:
    """Directory, router, ingest workers, learners and coordinator. Whoever creates the group owns the actors."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._actors: dict[str, Any] = {}
        ingest, learner = settings.ingest, settings.learner
        self._spawn(names.DIRECTORY, AsyncActorHost, "control_actors:directory", concurrency=1000)
        self._spawn(names.ROUTER, ActorHost, "control_actors:router", cpus=settings.router.num_cpus)
        for index in range(ingest.workers):
            reserved = {"cpus": ingest.num_cpus, "gpus": ingest.num_gpus}
            self._spawn(names.ingest(index), ActorHost, "compute_actors:ingest", index, concurrency=4, **reserved)
        for index in range(learner.workers):
            reserved = {"cpus": learner.num_cpus, "gpus": learner.num_gpus}
            self._spawn(names.learner(index), ActorHost, "compute_actors:learner", index, concurrency=4, **reserved)
        self._spawn(names.COORDINATOR, ActorHost, "control_actors:coordinator", concurrency=16)

    def _spawn(
        self,
        name: str,
        host: type,
        maker: str,
        *args: Any,
        cpus: float = 0.0,
        gpus: float = 0.0,
        concurrency: int | None = None,
    ) -> None:
        # Workers that share a GPU are packed onto few of them; what spreads is what takes a whole one.
        spread = self._settings.ray.placement == "spread" and (gpus == 0 or gpus >= 1)
        options: dict[str, Any] = {
            "name": name,
            "namespace": names.NAMESPACE,
            "num_cpus": cpus,
            "num_gpus": gpus,
            "max_restarts": self._settings.ray.max_restarts,
            "scheduling_strategy": "SPREAD" if spread else "DEFAULT",
        }
        if concurrency is not None:
            options["max_concurrency"] = concurrency
        actor: Any = ray.remote(host)
        self._actors[name] = actor.options(**options).remote(f"cluster.{maker}", self._settings, *args)

    def wait_until_up(self, timeout_s: float) -> None:
        """Return once every actor has been constructed; raises the error of one that could not be."""
        ray.get([actor.__ray_ready__.remote() for actor in self._actors.values()], timeout=timeout_s)

    def stop(self) -> None:
        """Stop the loops in the order that loses nothing, then end the actors."""
        for name in (names.COORDINATOR, *map(names.ingest, range(self._settings.ingest.workers))):
            with suppress(Exception):
                ray.get(self._actors[name].call.remote("stop"), timeout=15)
        for actor in self._actors.values():
            with suppress(Exception):
                ray.kill(actor)
        self._actors.clear()


def check_resources(settings: Settings) -> None:
    """Check that the Ray cluster holds what the actors reserve; otherwise they would wait for ever."""
    ingest, learner, serving = settings.ingest, settings.learner, settings.serving
    needed = {
        "CPU": ingest.workers * ingest.num_cpus
        + settings.router.num_cpus
        + learner.workers * learner.num_cpus
        + serving.replicas * serving.num_cpus,
        "GPU": ingest.workers * ingest.num_gpus
        + learner.workers * learner.num_gpus
        + serving.replicas * serving.num_gpus,
    }
    there: dict[str, float] = ray.cluster_resources()  # type: ignore[no-untyped-call]
    for kind, amount in needed.items():
        if amount > there.get(kind, 0.0) + 1e-9:
            raise ClusterError(
                f"the actors reserve {amount:g} {kind}, the cluster has {there.get(kind, 0.0):g}; lower "
                f"num_{kind.lower()}s or the number of workers, or add nodes"
            )
