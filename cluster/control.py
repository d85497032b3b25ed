"""What a replica's front door needs of the rest of the system: the stream to write to, the coordinator to ask."""

from __future__ import annotations

import asyncio
import logging
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import Any

from actors.errors import ActorError, UnknownDomain
from cluster import builders
from cluster.remote import AsyncRemote
from configs.settings import Settings
from serving.api import CommandResult, DomainStatus, SystemStatus
from serving.errors import ControlUnavailable, InvalidRecord, Refused, UnknownName
from serving.openai_body import error_body
from streaming.errors import EntryRefused, RecordError, StreamError, TooLarge
from streaming.location import open_sink
from streaming.records import EndOfDomain, TaskRecord, from_mapping
from streaming.source import RecordSink

_PATIENCE_S = 4.0
"""How long an append waits for the stream, in seconds, before its client is told to come back."""

_AWAY = "the stream does not take records now"
_SEND_AGAIN = (
    "some of these may have been written; send all of them again in a moment, which is safe: a record with the same id,"
    " or without one with the same content, counts once"
)

_log = logging.getLogger(__name__)


def read_record(value: dict[str, Any]) -> TaskRecord | EndOfDomain:
    """Return the record or marker in a JSON object; raises `InvalidRecord` saying what is wrong with it."""
    try:
        record = from_mapping(value)
    except RecordError as error:
        raise InvalidRecord(str(error)) from error
    if isinstance(record, TaskRecord) and record.domain is None:
        raise InvalidRecord(f"record {record.id!r} has no domain: learning needs a labelled example")
    return record


def read_records(values: list[dict[str, Any]]) -> list[TaskRecord | EndOfDomain]:
    """Return the records in a list of JSON objects; raises `InvalidRecord` naming the first that is wrong."""
    records = []
    for place, value in enumerate(values):
        try:
            records.append(read_record(value))
        except InvalidRecord as error:
            raise InvalidRecord(
                f"number {place + 1} of {len(values)}: {error}" if len(values) > 1 else str(error)
            ) from error
    return records


class ClusterControl:
    """The control port of one replica's front door."""

    def __init__(self, settings: Settings, coordinator: AsyncRemote) -> None:
        self._settings = settings
        self._coordinator = coordinator
        self._sink: RecordSink | None = None
        # One thread: a sink is used by one at a time, also when the client of an append has gone away meanwhile.
        self._appending = ThreadPoolExecutor(max_workers=1, thread_name_prefix="append")
        self._away_at = 0.0

    async def append_records(self, records: list[dict[str, Any]]) -> list[str]:
        """Append records to the stream, durably; all of them are checked, sizes too, before the first is written.

        Raises `InvalidRecord` for a record that can't be read, `Refused` (413) for one that is too large, and
        `ControlUnavailable` within seconds where the stream does not take them now.
        """
        read = await asyncio.to_thread(read_records, records)
        asked_at = time.monotonic()
        await asyncio.get_running_loop().run_in_executor(self._appending, self._append, read, asked_at)
        return [record.id if isinstance(record, TaskRecord) else record.domain for record in read]

    def _append(self, records: list[TaskRecord | EndOfDomain], asked_at: float) -> None:
        if self._away_at > asked_at:
            # An append before this one waited for the stream in vain, when this one had been asked for already.
            raise ControlUnavailable(f"{_AWAY}; nothing was written, send again in a moment")
        try:
            if self._sink is None:
                self._sink = self._open_sink()
            self._sink.append_all(records)
        except TooLarge as error:
            raise Refused(413, error_body(str(error), "RequestEntityTooLargeError", 413)) from error
        except EntryRefused as error:
            _log.warning("the stream refuses records for good: %s", error)
            raise InvalidRecord("the stream refuses these records for good; its operator's log says why") from error
        except StreamError as error:
            # The cause names addresses and paths: it is for the log, not for clients.
            _log.warning("appending to the stream failed: %s", error)
            self._away_at = time.monotonic()
            self._drop_sink()
            raise ControlUnavailable(f"{_AWAY}; {_SEND_AGAIN}") from error

    def _drop_sink(self) -> None:
        """Let the next append open the stream anew: it may have been made again, elsewhere or otherwise."""
        sink, self._sink = self._sink, None
        if sink is not None:
            with suppress(StreamError):
                sink.close()

    def _open_sink(self) -> RecordSink:
        return open_sink(
            builders.stream_location(self._settings),
            options=builders.kafka_options(self._settings),
            patience_s=_PATIENCE_S,
            max_value_bytes=self._settings.ingest.max_record_bytes,
        )

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
