"""Handles of remote actors in the shape of the ports that the actors were written against.

An actor's class knows only its peers' methods. `Remote` makes a Ray handle answer to them by waiting for the result,
`AsyncRemote` by awaiting it; errors arrive as the classes they were raised as.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import ray

from cluster.names import NAMESPACE


class Remote:
    """A Ray actor whose methods are called like those of a local object."""

    def __init__(self, handle: Any) -> None:
        self._handle = handle

    @classmethod
    def named(cls, name: str) -> Remote:
        """Return the actor of that name; it need not be up yet, its methods wait for it."""
        return cls(ray.get_actor(name, namespace=NAMESPACE))

    def __getattr__(self, name: str) -> Callable[..., Any]:
        if name.startswith("_"):
            raise AttributeError(name)
        method = getattr(self._handle, name)
        return lambda *args, **kwargs: ray.get(method.remote(*args, **kwargs))


class AsyncRemote:
    """A Ray actor whose methods are awaited."""

    def __init__(self, handle: Any) -> None:
        self._handle = handle

    @classmethod
    def named(cls, name: str) -> AsyncRemote:
        """Return the actor of that name."""
        return cls(ray.get_actor(name, namespace=NAMESPACE))

    def __getattr__(self, name: str) -> Callable[..., Any]:
        if name.startswith("_"):
            raise AttributeError(name)
        method = getattr(self._handle, name)

        async def call(*args: Any, **kwargs: Any) -> Any:
            return await method.remote(*args, **kwargs)

        return call
