"""Ingest, domains and status over HTTP: everything that goes on to the control port."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

from fastapi import APIRouter, Depends, Request, Response
from pydantic import ValidationError

from serving.api import (
    AdapterRequest,
    CommandResult,
    DomainList,
    DomainStatus,
    RecordsResult,
    SystemStatus,
    VersionRequest,
)
from serving.caller import check_domain, check_records, is_visible, note
from serving.event_stream import EventStream
from serving.events import StatusStream
from serving.openai_body import bad_request, without_nulls
from serving.paths import answering, asking, sent
from serving.ports import ControlPort
from serving.record_body import read_records
from serving.request_body import MAX_RECORDS_BYTES, aside, parse, read_bytes
from serving.system_view import Within

_RECORDS = {
    "oneOf": [{"type": "object"}, {"type": "array", "items": {"type": "object"}}],
    "description": "One record, or a list of them; as text also one per line.",
}
_COMMAND = answering(CommandResult)
_VERSION = asking(VersionRequest, required=False)
_OFFER = asking(AdapterRequest)


async def _checked(domain: str) -> None:
    check_domain(domain)


_FOR_IT = [Depends(_checked)]


def admin_router(
    control: ControlPort, status_of: Callable[[], Awaitable[SystemStatus]], watch: StatusStream
) -> APIRouter:
    """The paths below /v1 that don't generate."""
    domains_of = Within(lambda: control.domains())
    router = APIRouter(prefix="/v1")

    @router.post("/records", status_code=202, responses=answering(RecordsResult, 202), openapi_extra=asking(_RECORDS))
    async def append(request: Request) -> Response:
        records = await aside(read_records, await read_bytes(request, MAX_RECORDS_BYTES))
        check_records(records)
        return sent(RecordsResult(ids=tuple(await control.append_records(records))), 202)

    @router.get("/domains", responses=answering(DomainList))
    async def domains() -> Response:
        found = await domains_of()
        return sent(DomainList(domains=tuple(_of_caller(each) for each in found if is_visible(each.domain))))

    @router.delete("/domains/{domain}", responses=_COMMAND, dependencies=_FOR_IT)
    async def remove(domain: str) -> Response:
        return sent(await control.remove(domain))

    @router.post("/domains/{domain}/rollback", responses=_COMMAND, openapi_extra=_VERSION, dependencies=_FOR_IT)
    async def rollback(domain: str, request: Request) -> Response:
        return sent(await control.rollback(domain, _version(await read_bytes(request))))

    @router.post("/domains/{domain}/pin", responses=_COMMAND, openapi_extra=_VERSION, dependencies=_FOR_IT)
    async def pin(domain: str, request: Request) -> Response:
        return sent(await control.pin(domain, _version(await read_bytes(request))))

    @router.post("/domains/{domain}/unpin", responses=_COMMAND, dependencies=_FOR_IT)
    async def unpin(domain: str) -> Response:
        return sent(await control.unpin(domain))

    @router.post("/domains/{domain}/learn", responses=_COMMAND, dependencies=_FOR_IT)
    async def learn(domain: str) -> Response:
        return sent(await control.learn(domain))

    @router.post("/domains/{domain}/adapters", responses=_COMMAND, openapi_extra=_OFFER, dependencies=_FOR_IT)
    async def add_adapter(domain: str, request: Request) -> Response:
        asked = _adapter(await read_bytes(request))
        note(f"offer {asked.offer}")
        return sent(await control.add_adapter(domain, asked.offer, asked.note))

    @router.get("/status", responses=answering(SystemStatus))
    async def status() -> Response:
        return sent(await status_of())

    @router.get("/events", responses={200: {"content": {"text/event-stream": {}}}})
    async def events() -> Response:
        return EventStream(watch.events())

    return router


def _of_caller(domain: DomainStatus) -> DomainStatus:
    """The same without the names of domains that the caller's key is not for."""
    shown = {name: share for name, share in domain.routed_to.items() if is_visible(name)}
    return domain.model_copy(update={"routed_to": shown})


def _version(content: bytes) -> str | None:
    """The `version` of an optional JSON object."""
    body: Any = parse(content) if content.strip() else {}
    try:
        version = VersionRequest.model_validate(without_nulls(body) if isinstance(body, dict) else body).version
    except ValidationError as error:
        raise bad_request('expected {"version": full version name or null}', "version") from error
    if version is not None:
        note(f"version {version}")
    return version


def _adapter(content: bytes) -> AdapterRequest:
    try:
        return AdapterRequest.model_validate(parse(content))
    except ValidationError as error:
        raise bad_request('expected {"offer": name of an uploaded adapter, "note": text}', "offer") from error
