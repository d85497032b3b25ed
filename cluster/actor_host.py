"""What Ray is shown of an actor: a class that weighs nothing and passes calls on to what it has built.

Ray loads an actor's class in every process that holds a handle of it. Were that the real class, the driver, the
coordinator and the replicas would import torch only to speak to a learner. So Ray knows these two, and the process of
the actor alone imports the rest. A restart after a crash runs the constructor again, which builds from the settings.
"""

from __future__ import annotations

from importlib import import_module
from typing import Any

from configs.settings import Settings


def build(maker: str, settings: Settings, *args: Any) -> Any:
    """What the function named `package.module:function` makes of settings and arguments."""
    module, _, function = maker.partition(":")
    return getattr(import_module(module), function)(settings, *args)


class ActorHost:
    """An actor whose methods run in its threads."""

    def __init__(self, maker: str, settings: Settings, *args: Any) -> None:
        self._inner = build(maker, settings, *args)

    def call(self, method: str, *args: Any, **kwargs: Any) -> Any:
        """Call a method of the actor."""
        return getattr(self._inner, method)(*args, **kwargs)


class AsyncActorHost:
    """An actor whose methods are coroutines on one event loop."""

    def __init__(self, maker: str, settings: Settings, *args: Any) -> None:
        self._inner = build(maker, settings, *args)

    async def call(self, method: str, *args: Any, **kwargs: Any) -> Any:
        """Await a method of the actor."""
        return await getattr(self._inner, method)(*args, **kwargs)
