"""What the front door needs of the system behind this replica. `cluster` implements it."""

from __future__ import annotations

from typing import Any, Protocol


class ControlPort(Protocol):
    """The rest of the system, as seen from one replica.

    Every method may raise ControlUnavailable; those that name a domain or version raise UnknownName for one that does
    not exist, and return the manifest then in force: `{"manifest": number, "reason": text}`.
    """

    async def append_records(self, records: list[dict[str, Any]]) -> list[str]:
        """Put records on the stream, durably, all or none. Returns their ids. Raises InvalidRecord."""

    async def domains(self) -> list[dict[str, Any]]:
        """Every known domain with its versions and state, as JSON objects."""

    async def remove(self, domain: str) -> dict[str, Any]:
        """Take a domain out of the router and of service."""

    async def rollback(self, domain: str, version: str | None) -> dict[str, Any]:
        """Serve an older version again; None is the one before the current."""

    async def pin(self, domain: str, version: str | None) -> dict[str, Any]:
        """Keep a domain on a version, whatever is trained later; None is the current one."""

    async def unpin(self, domain: str) -> dict[str, Any]:
        """Let newer versions be served again."""

    async def status(self) -> dict[str, Any]:
        """The whole system's state as a JSON object."""

    async def metrics(self) -> str:
        """Prometheus text of everything that is not this replica; may be empty."""
