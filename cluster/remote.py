"""Handles of remote actors in the shape of the ports that the actors were written against.

An actor's class knows only its peers' methods. `Remote` makes a Ray handle answer to them by waiting for the result,
`AsyncRemote` by awaiting it; errors arrive as the classes they were raised as.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import ray
from ray.exceptions import RayError

from actors.errors import ActorError
from cluster.names import NAMESPACE


class Unreachable(Exception):
    """A remote actor does not answer, or failed in a way that is none of its own errors."""


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
            try:
                return await method.remote(*args, **kwargs)
            except ActorError:
                raise
            except RayError as error:
                raise Unreachable(f"{name}: {error}") from error

        return call
