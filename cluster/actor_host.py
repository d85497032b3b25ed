"""What Ray is shown of an actor: a class that weighs nothing and passes calls on to what it has built.

Ray loads an actor's class in every process that holds a handle of it. Were that the real class, the driver, the
coordinator and the replicas would import torch only to speak to a learner. So Ray knows these two, and the process of
the actor alone imports the rest. A restart after a crash runs the constructor again, which builds from the settings,
behind itself: `actors.making` says why.

`vitals` is asked in a concurrency group of its own (`cluster.actor_group`): whoever does not answer there is stuck as a
whole, however busy an actor may be.
"""

from __future__ import annotations

import asyncio
from importlib import import_module
from typing import Any

from actors.making import PATIENCE_S, HostVitals, Making
from configs.settings import Settings


def build(maker: str, settings: Settings, *args: Any) -> Any:
    """What the function named `package.module:function` makes of settings and arguments."""
    module, _, function = maker.partition(":")
    return getattr(import_module(module), function)(settings, *args)


class ActorHost:
    """An actor whose methods run in its threads."""

    def __init__(self, maker: str, settings: Settings, *args: Any) -> None:
        self._making = Making(lambda: build(maker, settings, *args))

    def call(self, method: str, *args: Any, **kwargs: Any) -> Any:
        """Call a method of the actor."""
        return getattr(self._making.get(), method)(*args, **kwargs)

    def vitals(self) -> HostVitals:
        """Say how it is."""
        return self._making.vitals()


class AsyncActorHost:
    """An actor whose methods are coroutines on one event loop."""

    def __init__(self, maker: str, settings: Settings, *args: Any) -> None:
        self._making = Making(lambda: build(maker, settings, *args))

    async def call(self, method: str, *args: Any, **kwargs: Any) -> Any:
        """Await a method of the actor."""
        made = asyncio.wrap_future(self._making.made)
        done, _ = await asyncio.wait({made}, timeout=PATIENCE_S)
        if not done:
            raise self._making.not_made()
        return await getattr(made.result(), method)(*args, **kwargs)

    async def vitals(self) -> HostVitals:
        """Say how it is."""
        return self._making.vitals()
