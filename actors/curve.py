"""The losses of a training so far, in few points however long it lasts."""

from __future__ import annotations

_MOST = 60


class Curve:
    """Keeps every n-th step of those it is given; n doubles when it is full."""

    def __init__(self) -> None:
        self._points: list[tuple[int, float]] = []
        self._every = 1

    def add(self, step: int, loss: float) -> None:
        """Note a step's loss; steps come in order."""
        if self._points and step - self._points[-1][0] < self._every:
            return
        self._points.append((step, loss))
        if len(self._points) >= _MOST:
            self._points = self._points[::2]
            self._every *= 2

    @property
    def points(self) -> tuple[tuple[int, float], ...]:
        """Steps and losses, in order; the first step that was given is always among them."""
        return tuple(self._points)
