"""The actors that decide: router, directory, meter, coordinator; each made from the settings alone.

Those that compute are in `compute_actors`, so that these don't import what computing takes.
"""

from __future__ import annotations

from actors.coordinator import Coordinator
from actors.directory import ReplicaDirectory
from actors.meter import QuotaMeter
from actors.router import Router
from cluster import builders, names
from cluster.remote import Remote
from configs.settings import Settings


def router(settings: Settings) -> Router:
    """The router, single writer of the registry."""
    return Router(builders.registry(settings, writer=True), builders.base_revision(settings), settings.router)


def directory(settings: Settings) -> ReplicaDirectory:
    """The replica directory; its methods run on the actor's event loop."""
    registry = builders.registry(settings)

    def in_force() -> int:
        return manifest.number if (manifest := registry.current()) else 0

    return ReplicaDirectory(in_force, prepare_timeout_seconds=settings.serving.prepare_timeout_seconds)


def meter(settings: Settings) -> QuotaMeter:
    """What keys have used, for all replicas; its methods run on the actor's event loop."""
    return QuotaMeter(builders.registry(settings).storage)


def coordinator(settings: Settings) -> Coordinator:
    """The coordinator, which knows everyone it directs by name, ticking."""
    made = Coordinator(
        builders.registry(settings),
        builders.base_revision(settings),
        {name: Remote.named(name) for name in map(names.ingest, range(settings.ingest.workers))},
        Remote.named(names.ROUTER),
        {name: Remote.named(name) for name in map(names.learner, range(settings.learner.workers.most))},
        Remote.named(names.DIRECTORY),
        builders.coordinator_options(settings),
        builders.unfinished(settings),
        builders.adapter_check(settings),
    )
    made.start()
    return made
