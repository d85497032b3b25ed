"""Where processes die: at any boundary between two actors, and at any write within one.

A `Link` stands between a caller and whom it calls. Of one call either side may die, before it or after it took effect:
the callee's death is an error to the caller, the caller's own ends it wherever it was. It does not know what the calls
mean, nor how a process is started again.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from typing import Any

from tests.actors.house import Crash

DRIVER = "driver"
"""Who calls from outside the system: it never dies."""


class Death(Crash):
    """The process named dies here."""

    def __init__(self, who: str) -> None:
        super().__init__(who)
        self.who = who


class Unreachable(Exception):
    """What a caller gets where the process it calls dies during the call, or is down."""


class Deaths:
    """The next death to come: `armed` is whose, and at how many of its boundaries from now."""

    def __init__(self) -> None:
        self.stack: list[str] = [DRIVER]
        self.armed: tuple[str, int] | None = None
        self.disk: tuple[int, int] = (0, 0)
        """Writes until the disk is full, and how many then fail."""
        self.happened: list[str] = []

    def arm(self, who: str, boundaries: int) -> None:
        self.armed = (who, boundaries)

    def at(self, who: str, where: str) -> None:
        """One boundary of a process: it may be its last."""
        if self.armed is None or self.armed[0] != who:
            return
        left = self.armed[1]
        if left > 0:
            self.armed = (who, left - 1)
            return
        self.armed = None
        self.happened.append(f"{who} died {where}")
        raise Death(who)

    def fill(self, writes: int, failing: int) -> None:
        """Have the disk be full after so many writes, for as many as are to fail."""
        self.disk = (writes, failing)

    def calm(self) -> None:
        """Let nothing more happen."""
        self.armed, self.disk = None, (0, 0)

    def write(self, where: str) -> None:
        """A write of whoever works now."""
        writes, failing = self.disk
        if failing and self.stack[-1] != DRIVER:
            self.disk = (writes - 1, failing) if writes else (0, failing - 1)
            if not writes:
                raise OSError(errno.ENOSPC, "no space left on device")
        self.at(self.stack[-1], where)


class Link:
    """The way from `caller` to `callee`: `target` gives who fills the place now, `revive` starts it anew."""

    def __init__(
        self, deaths: Deaths, caller: str, callee: str, target: Callable[[], Any], revive: Callable[[str], None]
    ) -> None:
        self._deaths, self._caller, self._callee = deaths, caller, callee
        self._target, self._revive = target, revive

    def __getattr__(self, name: str) -> Callable[..., Any]:
        if name.startswith("_"):
            raise AttributeError(name)

        def call(*args: Any, **kwargs: Any) -> Any:
            return self._call(name, args, kwargs)

        return call

    def _call(self, name: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        deaths, callee = self._deaths, self._callee
        deaths.at(self._caller, f"before calling {callee}.{name}")
        deaths.stack.append(callee)
        try:
            deaths.at(callee, f"before {name}")
            result = getattr(self._target(), name)(*args, **kwargs)
            deaths.at(callee, f"after {name}")
        except Death as death:
            if death.who != callee:
                raise
            self._revive(callee)
            raise Unreachable(f"the {callee} died during {name}") from None
        finally:
            deaths.stack.pop()
        deaths.at(self._caller, f"after calling {callee}.{name}")
        return result


class Own:
    """A process's own disk or database: each of its methods is a boundary before and after."""

    def __init__(self, deaths: Deaths, owner: str, inner: Any) -> None:
        self._deaths, self._owner, self._inner = deaths, owner, inner

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._inner, name)
        if not callable(found) or name == "close":
            return found

        def call(*args: Any, **kwargs: Any) -> Any:
            self._deaths.at(self._owner, f"before its {name}")
            result = found(*args, **kwargs)
            self._deaths.at(self._owner, f"after its {name}")
            return result

        return call


class MortalOs:
    """`os` for a module that writes: whoever writes may die before or after each call that changes the disk."""

    def __init__(self, deaths: Deaths) -> None:
        self._deaths = deaths

    def __getattr__(self, name: str) -> Any:
        found = getattr(os, name)
        if name not in ("replace", "rename", "fsync", "unlink", "write", "link"):
            return found

        def call(*args: Any, **kwargs: Any) -> Any:
            self._deaths.write(f"before os.{name}")
            result = found(*args, **kwargs)
            self._deaths.write(f"after os.{name}")
            return result

        return call
