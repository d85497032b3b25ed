"""The actors that decide, as Ray runs them: router, directory, coordinator.

Those that compute are in `compute_actors`, so that these don't import what computing takes. Each builds its parts from
the settings in its constructor, because a restart after a crash runs the constructor again and nothing else.
"""

from __future__ import annotations

from actors.coordinator import Coordinator
from actors.directory import ReplicaDirectory
from actors.router import Router
from cluster import builders, names
from cluster.remote import Remote
from configs.settings import Settings
from registry.registry import Registry


class RouterActor(Router):
    """The router, single writer of the registry."""

    def __init__(self, settings: Settings) -> None:
        super().__init__(
            Registry(builders.registry_root(settings), writer=True),
            builders.base_revision(settings),
            ridge=settings.router.ridge,
            class_weighting=settings.router.class_weighting,
            abstain_below=settings.router.abstain_below,
        )


class DirectoryActor(ReplicaDirectory):
    """The replica directory; its methods run on the actor's event loop."""

    def __init__(self, settings: Settings) -> None:
        registry = Registry(builders.registry_root(settings))

        def in_force() -> int:
            manifest = registry.current()
            return manifest.number if manifest else 0

        super().__init__(in_force, prepare_timeout_seconds=settings.serving.prepare_timeout_seconds)


class CoordinatorActor(Coordinator):
    """The coordinator, which knows everyone it directs by name."""

    def __init__(self, settings: Settings) -> None:
        super().__init__(
            Registry(builders.registry_root(settings)),
            builders.base_revision(settings),
            {name: Remote.named(name) for name in map(names.ingest, range(settings.ingest.workers))},
            Remote.named(names.ROUTER),
            [Remote.named(names.learner(index)) for index in range(settings.learner.workers)],
            Remote.named(names.DIRECTORY),
            builders.coordinator_options(settings),
        )
        self.start()
