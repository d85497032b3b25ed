"""What a router is to the benchmark: it sees each task's features once, and names a task for a row. Knows no method."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from learning.symmetric import Float64


@dataclass(frozen=True, eq=False)
class Features:
    """Of N rows, from the base's frozen layers: as they are pooled, and expanded as the service's router takes them."""

    pooled_ND: Float64  # noqa: N815 - shape suffix
    expanded_NE: Float64  # noqa: N815 - shape suffix


class TaskRouter(Protocol):
    """One router on one stream of tasks."""

    label: str

    def learn(self, features: Features, task: str) -> None:
        """Takes the next task's training rows."""

    def route(self, features: Features) -> Sequence[str]:
        """Of each row, the task that it is taken for: one of those learned."""

    def stored_bytes(self) -> int:
        """Bytes that have to be kept to route and to go on learning; those of kept rows included."""

    def save(self, folder: Path) -> None:
        """Writes all that it has learned into a new folder."""

    def load(self, folder: Path) -> None:
        """Takes up what `save` wrote, in a new object made with the same settings."""
