"""What a replica's front door needs of the rest of the system: the stream to write to, the coordinator to ask."""

from __future__ import annotations

import asyncio
from typing import Any

from pydantic import ValidationError

from actors.errors import ActorError, UnknownDomain
from cluster import builders
from cluster.remote import AsyncRemote
from configs.settings import Settings
from serving.api import CommandResult, DomainStatus, SystemStatus
from serving.errors import ControlUnavailable, InvalidRecord, UnknownName
from streaming.errors import StreamError
from streaming.records import EndOfDomain, TaskRecord, from_row
from streaming.source import RecordSink


def read_record(value: dict[str, Any]) -> TaskRecord | EndOfDomain:
    """Return the record or marker in a JSON object; raises `InvalidRecord` saying what is wrong with it."""
    try:
        if value.get("kind") == "end_of_domain":
            return EndOfDomain.model_validate(value)
        if "input" in value:
            return from_row(value)
        return TaskRecord.model_validate(value)
    except ValidationError as error:
        problems = "; ".join(f"{'.'.join(map(str, e['loc'])) or 'record'}: {e['msg']}" for e in error.errors())
        raise InvalidRecord(problems) from error
    except StreamError as error:
        raise InvalidRecord(str(error)) from error


class ClusterControl:
    """The control port of one replica's front door."""

    def __init__(self, settings: Settings, coordinator: AsyncRemote) -> None:
        self._settings = settings
        self._coordinator = coordinator
        self._sink: RecordSink | None = None
        self._appending = asyncio.Lock()

    async def append_records(self, records: list[dict[str, Any]]) -> list[str]:
        """Append records to the stream, durably; all of them are checked before the first is written."""
        read = [read_record(value) for value in records]
        for record in read:
            if isinstance(record, TaskRecord) and record.domain is None:
                raise InvalidRecord(f"record {record.id!r} has no domain: learning needs a labelled example")
        async with self._appending:
            await asyncio.to_thread(self._append, read)
        return [record.id if isinstance(record, TaskRecord) else record.domain for record in read]

    def _append(self, records: list[TaskRecord | EndOfDomain]) -> None:
        if self._sink is None:
            self._sink = builders.sink(self._settings)
        for record in records:
            self._sink.append(record)
        self._sink.flush()

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

    async def _command(self, name: str, domain: str, *args: Any) -> CommandResult:
        manifest = await self._ask(name, domain, *args)
        return CommandResult(domain=domain, manifest=manifest.number, reason=manifest.reason)

    async def _ask(self, name: str, *args: Any) -> Any:
        try:
            return await getattr(self._coordinator, name)(*args)
        except UnknownDomain as error:
            raise UnknownName(str(error)) from error
        except ActorError as error:
            raise ControlUnavailable(f"{error}; try again in a moment") from error
