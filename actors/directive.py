"""What a replica and the directory say to each other. Values only: neither side's behaviour."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class Directive:
    """What a replica shall do next; `stay` means: nothing, ask again."""

    action: Literal["stay", "prepare", "commit", "fence"]
    number: int = 0
    reason: str = ""


@dataclass(frozen=True)
class Standing:
    """Where a replica stands: the manifest it serves, the one it is preparing, has prepared or could not, and why."""

    serves: int = 0
    preparing: int | None = None
    prepared: int | None = None
    failed: int | None = None
    failure: str = ""
    address: str = ""
    """Where it takes requests, as host:port; empty where nobody leads them there."""
    used: tuple[str, ...] = ()
    """Full names of the adapters in its engine, the one used last first."""


@dataclass(frozen=True)
class PublicationReport:
    """What became of a publication: replicas that serve it, those fenced with the reason, and seconds it took."""

    number: int
    replicas: int
    fenced: dict[str, str]
    seconds: float
