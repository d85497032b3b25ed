"""Ingest, domains and status over HTTP: everything that goes on to the control port."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter, Request, Response
from fastapi.responses import JSONResponse

from serving.errors import InvalidRecord, Refused
from serving.openai_body import bad_request
from serving.ports import ControlPort
from serving.request_body import parse, read_bytes
from serving.service import RoutedService


def admin_router(service: RoutedService, control: ControlPort) -> APIRouter:
    """The paths below /v1 that don't generate."""
    router = APIRouter(prefix="/v1")

    @router.post("/records", status_code=202)
    async def append(request: Request) -> dict[str, Any]:
        ids = await control.append_records(_records(await read_bytes(request)))
        return {"ids": ids}

    @router.get("/domains")
    async def domains() -> dict[str, Any]:
        return {"domains": await control.domains()}

    @router.delete("/domains/{domain}")
    async def remove(domain: str) -> dict[str, Any]:
        return {"domain": domain, **await control.remove(domain)}

    @router.post("/domains/{domain}/rollback")
    async def rollback(domain: str, request: Request) -> dict[str, Any]:
        version = _version(await read_bytes(request))
        return {"domain": domain, **await control.rollback(domain, version)}

    @router.post("/domains/{domain}/pin")
    async def pin(domain: str, request: Request) -> dict[str, Any]:
        version = _version(await read_bytes(request))
        return {"domain": domain, **await control.pin(domain, version)}

    @router.post("/domains/{domain}/unpin")
    async def unpin(domain: str) -> dict[str, Any]:
        return {"domain": domain, **await control.unpin(domain)}

    @router.get("/status")
    async def status() -> Response:
        return JSONResponse({**await control.status(), "replica": service.health()})

    return router


def _records(content: bytes) -> list[dict[str, Any]]:
    """One record, a list of records, or one record per line."""
    try:
        value = parse(content)
    except Refused:
        lines = [(number, line) for number, line in enumerate(content.splitlines(), 1) if line.strip()]
        if len(lines) < 2:
            raise
        value = [_line(number, line) for number, line in lines]
    records = value if isinstance(value, list) else [value]
    if not records:
        raise InvalidRecord("no record in the request; send one, a list, or one per line")
    for position, record in enumerate(records):
        if not isinstance(record, dict):
            raise InvalidRecord(f"record {position}: expected a JSON object, got {type(record).__name__}")
    return records


def _line(number: int, line: bytes) -> Any:
    try:
        return parse(line)
    except Refused as error:
        raise InvalidRecord(f"line {number}: {error}") from error


def _version(content: bytes) -> str | None:
    """The `version` of an optional JSON object."""
    body = parse(content) if content.strip() else {}
    version = body.get("version") if isinstance(body, dict) else body
    if not isinstance(body, dict) or (version is not None and not isinstance(version, str)):
        raise bad_request('expected {"version": full version name or null}', "version")
    return version
