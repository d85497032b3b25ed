"""What the front door needs of the system behind this replica. `cluster` implements it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

from serving.api import CommandResult, DomainStatus, SystemStatus
from serving.past_bodies import Letter, LetterChoice, ReplayResult


class ControlPort(Protocol):
    """The rest of the system, as seen from one replica.

    Every method may raise ControlUnavailable; those that name a domain or version raise UnknownName for one that does
    not exist, and return the manifest then in force.
    """

    async def append_records(self, records: list[dict[str, Any]]) -> list[str]:
        """Put records on the stream, durably, all or none. Returns their ids. Raises InvalidRecord.

        There may be hundreds of thousands: checking and writing them must not take place on the event loop.
        """

    async def domains(self) -> tuple[DomainStatus, ...]:
        """Every known domain with its versions and state."""

    async def remove(self, domain: str) -> CommandResult:
        """Take a domain out of the router and of service."""

    async def rollback(self, domain: str, version: str | None) -> CommandResult:
        """Serve an older version again; None is the one before the current."""

    async def pin(self, domain: str, version: str | None) -> CommandResult:
        """Keep a domain on a version, whatever is trained later; None is the current one."""

    async def unpin(self, domain: str) -> CommandResult:
        """Let newer versions be served again."""

    async def learn(self, domain: str) -> CommandResult:
        """Learn what waits of a domain next, whatever it rests for."""

    async def add_adapter(self, domain: str, offer: str, note: str) -> CommandResult:
        """Take an adapter made elsewhere, uploaded under that name, as a domain's next version once it is judged.

        Raises Refused for one that can't be served, and where the domain takes none now.
        """

    async def dead_letters(self) -> tuple[Letter, ...]:
        """The records that could not be read and were not replayed since, oldest first."""

    async def replay_letters(self, chosen: Sequence[LetterChoice] | None) -> ReplayResult:
        """Send these again, None for all, each as it was or mended; what can't be sent stays listed."""

    async def status(self) -> SystemStatus:
        """The whole system's state."""
