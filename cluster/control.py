"""What a replica's front door needs of the rest of the system: the stream to write to, the coordinator to ask."""

from __future__ import annotations

from typing import Any

from actors.errors import ActorError, DomainTaken, OfferRefused, UnknownDomain
from actors.intake import Intake
from actors.letters import LetterDesk
from cluster import builders
from cluster.remote import AsyncRemote
from configs.settings import Settings
from serving.api import CommandResult, DomainStatus, SystemStatus
from serving.errors import ControlUnavailable, Refused, UnknownName
from serving.openai_body import bad_request, error_body

_PATIENCE_S = 4.0
"""How long an append waits for the stream, in seconds, before its client is told to come back."""


class ClusterControl:
    """The control port of one replica's front door."""

    def __init__(self, settings: Settings, coordinator: AsyncRemote) -> None:
        self._intake = Intake(lambda: builders.sink(settings, patience_s=_PATIENCE_S))
        self._letters = LetterDesk(
            lambda: builders.dead_letters(settings), lambda: builders.sink(settings, patience_s=_PATIENCE_S)
        )
        # Their own words say what they do.
        self.dead_letters, self.replay_letters = self._letters.list, self._letters.replay
        self._coordinator = coordinator

    async def append_records(self, records: list[dict[str, Any]]) -> list[str]:
        """Append records to the stream; see `Intake.append`."""
        return await self._intake.append(records)

    async def domains(self) -> tuple[DomainStatus, ...]:
        """Describe every domain."""
        found: tuple[DomainStatus, ...] = await self._ask("domains")
        return found

    async def status(self) -> SystemStatus:
        """Describe the whole system."""
        found: SystemStatus = await self._ask("status")
        return found

    async def remove(self, domain: str) -> CommandResult:
        """Remove a domain from service, router and spool."""
        return await self._command("remove", domain)

    async def rollback(self, domain: str, version: str | None) -> CommandResult:
        """Put an earlier version back in service and pin it."""
        return await self._command("rollback", domain, version)

    async def pin(self, domain: str, version: str | None) -> CommandResult:
        """Keep a version in service."""
        return await self._command("pin", domain, version)

    async def unpin(self, domain: str) -> CommandResult:
        """Let newer versions replace the one in service."""
        return await self._command("unpin", domain)

    async def learn(self, domain: str) -> CommandResult:
        """Learn what waits of a domain next."""
        found: CommandResult = await self._ask("learn", domain)
        return found

    async def add_adapter(self, domain: str, offer: str, note: str) -> CommandResult:
        """Take an adapter made elsewhere as the candidate of a domain's next version."""
        found: CommandResult = await self._ask("add_adapter", domain, offer, note)
        return found

    async def _command(self, name: str, domain: str, *args: Any) -> CommandResult:
        manifest = await self._ask(name, domain, *args)
        return CommandResult(domain=domain, manifest=manifest.number, reason=manifest.reason)

    async def _ask(self, name: str, *args: Any) -> Any:
        try:
            return await getattr(self._coordinator, name)(*args)
        except UnknownDomain as error:
            raise UnknownName(str(error)) from error
        except OfferRefused as error:
            raise bad_request(str(error), "offer") from error
        except DomainTaken as error:
            raise Refused(409, error_body(str(error), "ConflictError", 409)) from error
        except ActorError as error:
            raise ControlUnavailable(f"{error}; try again in a moment") from error
