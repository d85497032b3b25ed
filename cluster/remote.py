"""Remote actors in the shape of the ports that the actors were written against.

An actor's class knows only its peers' methods. `Remote` answers to them by waiting for a remote call, `AsyncRemote` by
awaiting it. What the peer raised arrives as it was raised, without Ray's account of where; that a peer is not there, or
has not answered in time, is `Unreachable`, and the next call looks for it again. What one that was late was asked for
may still be done: every call to an actor may be repeated.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, Self

import ray
from ray.exceptions import GetTimeoutError, RayError, RayTaskError

from actors.errors import Unreachable
from cluster.names import NAMESPACE

_DEADLINE_S = 30.0
_DEADLINES_S: dict[str, float | None] = {
    # A training takes what it takes; whose process stops meanwhile is found by the supervisor.
    "train": None,
    # Asked again a moment later, by who has more to do meanwhile.
    "addresses": 2.0,
    # Of use to who starts, which does not wait for it.
    "used": 2.0,
    # Bounded by the replicas' own time-outs, each in turn where the base changes.
    "publish": 3600.0,
    **dict.fromkeys(("remove", "rollback", "pin", "unpin"), 3600.0),
    # What reads or writes as much as there is.
    **dict.fromkeys(("tidy", "examples", "take_background", "view", "add_adapter"), 600.0),
    **dict.fromkeys(("observe", "seal", "renumber", "reopen", "lose", "skip", "give_up", "survey", "fates"), 120.0),
}
"""Seconds in which a call is to be answered, by its method; None waits for as long as the peer lives."""


class _Named:
    """An actor by its name, looked up when it is first called and again after it was lost."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._handle: Any = None

    @classmethod
    def named(cls, name: str) -> Self:
        """The actor of that name, which need not be there yet."""
        return cls(name)

    def _look_up(self) -> Any:
        """The actor's handle; asks Ray where none is known, which may take as long as Ray's own head is away."""
        handle = self._handle
        if handle is None:
            try:
                self._handle = handle = ray.get_actor(self._name, namespace=NAMESPACE)
            except ValueError as error:
                raise Unreachable(f"{self._name} is not running") from error
        return handle

    def _late(self, deadline: float | None) -> Unreachable:
        return Unreachable(f"{self._name} has not answered in {deadline:g} s")

    def _plain(self, error: RayError) -> BaseException:
        """The peer's own error, or `Unreachable`: Ray's text holds a traceback, process ids, paths and addresses."""
        if isinstance(error, RayTaskError):
            cause: BaseException | None = error.cause
            # Ray puts an error of its own, with the traceback for a text, in the place of one that can't be pickled.
            if cause is None or isinstance(cause, RayError):
                return Unreachable(f"{self._name} failed in a way it can't tell; its log does")
            return cause
        self._handle = None
        return Unreachable(f"{self._name} does not answer ({type(error).__name__})")


class Remote(_Named):
    """A remote actor whose methods are called like those of a local object."""

    def __getattr__(self, method: str) -> Callable[..., Any]:
        if method.startswith("_"):
            raise AttributeError(method)

        def call(*args: Any, **kwargs: Any) -> Any:
            deadline = _DEADLINES_S.get(method, _DEADLINE_S)
            try:
                return ray.get(self._look_up().call.remote(method, *args, **kwargs), timeout=deadline)
            except GetTimeoutError:
                raise self._late(deadline) from None
            except RayError as error:
                raise self._plain(error) from None

        return call


class AsyncRemote(_Named):
    """A remote actor whose methods are awaited."""

    def __getattr__(self, method: str) -> Callable[..., Any]:
        if method.startswith("_"):
            raise AttributeError(method)

        async def call(*args: Any, **kwargs: Any) -> Any:
            deadline = _DEADLINES_S.get(method, _DEADLINE_S)
            try:
                # Beside the event loop, which has others to serve meanwhile.
                async with asyncio.timeout(deadline):
                    handle = self._handle or await asyncio.to_thread(self._look_up)
                    return await handle.call.remote(method, *args, **kwargs)
            except RayError as error:
                raise self._plain(error) from None
            except TimeoutError:
                raise self._late(deadline) from None

        return call
