"""Keys and the audit log over HTTP, for administrators of all domains."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import TypeVar

from fastapi import APIRouter, Request, Response
from pydantic import BaseModel, ValidationError

from registry.errors import CommitConflict, KeyRefused, RegistryError, UnknownKey
from registry.keys import Grant
from serving.access import Access
from serving.caller import note
from serving.errors import ControlUnavailable, UnknownName
from serving.key_bodies import AuditAct, AuditList, KeyList, KeyMade, KeyStatus, RotationRequest
from serving.openai_body import bad_request
from serving.paths import answering, asking, sent
from serving.request_body import limit, parse, read_bytes

T = TypeVar("T")
M = TypeVar("M", bound=BaseModel)


def key_router(access: Access | None) -> APIRouter:
    """The paths of keys; without a registry behind them each says so."""
    router = APIRouter(prefix="/v1")

    async def at_the_registry(work: Callable[[Access], T], *, changes: bool = False) -> T:
        if access is None:
            raise ControlUnavailable("this replica has no registry of keys")
        try:
            return await asyncio.to_thread(work, access)
        except UnknownKey as error:
            raise UnknownName(str(error)) from error
        except KeyRefused as error:
            raise bad_request(str(error)) from error
        except CommitConflict as error:
            raise ControlUnavailable("others change the keys as well; try again in a moment") from error
        except RegistryError as error:
            raise ControlUnavailable(str(error)) from error
        finally:
            if changes:
                access.ring.forget()

    @router.get("/keys", responses=answering(KeyList))
    async def keys() -> Response:
        found = await at_the_registry(lambda access: access.store.read())
        return sent(KeyList(keys=tuple(KeyStatus.of(each, _now()) for each in found)))

    @router.post("/keys", status_code=201, responses=answering(KeyMade, 201), openapi_extra=asking(Grant))
    async def create(request: Request) -> Response:
        grant = _read(Grant, await read_bytes(request))
        key, text = await at_the_registry(lambda access: access.store.create(grant), changes=True)
        note(f"key {key.id} for {','.join(key.scopes)}")
        return sent(KeyMade(key=KeyStatus.of(key, _now()), api_key=text), 201, _UNKEPT)

    @router.delete("/keys/{key}", responses=answering(KeyStatus))
    async def revoke(key: str) -> Response:
        revoked = await at_the_registry(lambda access: access.store.revoke(key), changes=True)
        return sent(KeyStatus.of(revoked, _now()))

    @router.post(
        "/keys/{key}/rotate",
        responses=answering(KeyMade),
        openapi_extra=asking(RotationRequest, required=False),
    )
    async def rotate(key: str, request: Request) -> Response:
        asked = _read(RotationRequest, await read_bytes(request) or b"{}")
        overlap = timedelta(seconds=asked.overlap_seconds)
        rotated, text = await at_the_registry(lambda access: access.store.rotate(key, overlap), changes=True)
        note(f"the secrets of before end within {asked.overlap_seconds:g} s")
        return sent(KeyMade(key=KeyStatus.of(rotated, _now()), api_key=text), headers=_UNKEPT)

    @router.get("/audit", responses=answering(AuditList))
    async def audit(request: Request) -> Response:
        """The newest acts, `limit` (50) of them, up to 1000."""
        most = limit(request, 50, _MOST_ACTS)
        acts = await at_the_registry(lambda access: list(access.audit.newest(most)))
        return sent(AuditList(acts=tuple(map(AuditAct.of, acts))))

    return router


_MOST_ACTS = 1000
_UNKEPT = {"cache-control": "no-store"}


def _now() -> datetime:
    return datetime.now(UTC)


def _read(model: type[M], content: bytes) -> M:
    try:
        return model.model_validate(parse(content))
    except ValidationError as error:
        fault = error.errors(include_url=False, include_context=False, include_input=False)[0]
        where = ".".join(map(str, fault["loc"]))
        raise bad_request(f"{where or 'the body'}: {fault['msg']}", where or None) from error
