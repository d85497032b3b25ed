"""What a replica's front door needs of the rest of the system: the stream to write to, the coordinator to ask."""

from __future__ import annotations

import asyncio
from typing import Any

from prometheus_client import CollectorRegistry, Gauge, generate_latest
from pydantic import ValidationError

from actors.errors import ActorError, UnknownDomain
from cluster import builders
from cluster.remote import AsyncRemote
from configs.settings import Settings
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

    async def domains(self) -> list[dict[str, Any]]:
        """Describe every domain."""
        return [domain.model_dump(mode="json") for domain in await self._ask("domains")]

    async def status(self) -> dict[str, Any]:
        """Describe the whole system."""
        found: dict[str, Any] = (await self._ask("status")).model_dump(mode="json")
        return found

    async def remove(self, domain: str) -> dict[str, Any]:
        """Remove a domain from service, router and spool."""
        return await self._command("remove", domain)

    async def rollback(self, domain: str, version: str | None) -> dict[str, Any]:
        """Put an earlier version back in service and pin it."""
        return await self._command("rollback", domain, version)

    async def pin(self, domain: str, version: str | None) -> dict[str, Any]:
        """Keep a version in service."""
        return await self._command("pin", domain, version)

    async def unpin(self, domain: str) -> dict[str, Any]:
        """Let newer versions replace the one in service."""
        return await self._command("unpin", domain)

    async def _command(self, name: str, *args: Any) -> dict[str, Any]:
        manifest = await self._ask(name, *args)
        return {"manifest": manifest.number, "reason": manifest.reason}

    async def _ask(self, name: str, *args: Any) -> Any:
        try:
            return await getattr(self._coordinator, name)(*args)
        except UnknownDomain as error:
            raise UnknownName(str(error)) from error
        except ActorError as error:
            raise ControlUnavailable(f"{error}; try again in a moment") from error

    async def metrics(self) -> str:
        """Return the figures of ingest, router and coordinator as Prometheus text."""
        return render_metrics(await self.status())


def render_metrics(status: dict[str, Any]) -> str:
    """Turn a status into Prometheus text."""
    registry = CollectorRegistry()

    def gauge(name: str, text: str, labels: tuple[str, ...] = ()) -> Gauge:
        return Gauge(f"anabranch_{name}", text, labels, registry=registry)

    gauge("published_manifest_number", "Manifest in force").set(status["manifest"])
    examples = gauge("domain_examples", "Distinct examples known of a domain", ("domain",))
    rows = gauge("router_rows", "Rows in the router's sums", ("domain",))
    waiting = gauge("domain_waiting_examples", "Examples not trained on yet", ("domain",))
    for domain in status["domains"]:
        examples.labels(domain["domain"]).set(domain["examples"])
        rows.labels(domain["domain"]).set(domain["router_rows"])
        waiting.labels(domain["domain"]).set(domain["waiting"]["train"] + domain["waiting"]["held_out"])
    gauge("spool_rows", "Examples spooled on disk").set(sum(i["spooled"] for i in status["ingest"]))
    for counter in ("polled", "dead_letters", "duplicates"):
        total = sum(i[counter] for i in status["ingest"])
        gauge(f"ingest_{counter}_records", "Records since the ingest workers started").set(total)
    replicas = gauge("replica_manifest_number", "Manifest a replica serves", ("replica",))
    for name, replica in status["replicas"].items():
        replicas.labels(name).set(replica["manifest"])
    return generate_latest(registry).decode()
