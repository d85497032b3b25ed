"""The decisions that were kept, over HTTP: the newest, those of a domain, one by its id."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterator, Mapping
from itertools import islice
from typing import Any, TypeVar

from fastapi import APIRouter, Request, Response
from pydantic import ValidationError
from starlette.exceptions import HTTPException

from registry.errors import RegistryError
from serving.errors import ControlUnavailable
from serving.openai_body import bad_request
from serving.past_bodies import DecisionList, DecisionRecord
from serving.paths import answering, sent
from serving.request_body import limit
from serving.service import RoutedService

T = TypeVar("T")

_MOST = 1_000
_LOG = logging.getLogger(__name__)


def decision_router(service: RoutedService) -> APIRouter:
    """The paths below /v1/decisions."""
    router = APIRouter(prefix="/v1/decisions")

    @router.get("", responses=answering(DecisionList))
    async def decisions(request: Request) -> Response:
        """The newest, `limit` (100) of them, up to 1000; `domain`, `abstained` (true, false) and `before` (an id)
        narrow them."""
        asked, most = request.query_params, limit(request, 100, _MOST)
        domain, before = asked.get("domain"), asked.get("before", "")
        abstained = {None: None, "true": True, "false": False}.get(asked.get("abstained"), "")
        if abstained == "":
            raise bad_request("expected abstained=true or false", "abstained")

        def found() -> Iterator[DecisionRecord]:
            for each in map(_decision, service.decisions.newest(before)):
                if each is None or domain not in (None, each.decision.domain):
                    continue
                if abstained is None or (each.decision.abstained is not None) == abstained:
                    yield each

        newest = await _read(lambda: tuple(islice(found(), most)))
        return sent(DecisionList(keep=service.decisions.keep, decisions=newest))

    @router.get("/{decision}", responses=answering(DecisionRecord))
    async def decision_of(decision: str) -> Response:
        """One of them."""
        found = await _read(lambda: service.decisions.find(decision))
        if found is None or (told := _decision(found)) is None:
            raise HTTPException(404, "no decision of that id is kept, or none any more")
        return sent(told)

    return router


async def _read(read: Callable[[], T]) -> T:
    try:
        return await asyncio.to_thread(read)
    except RegistryError as error:
        _LOG.warning("decisions can't be read: %s", error)
        raise ControlUnavailable("the registry can't be read now; try again in a moment") from error


def _decision(found: Mapping[str, Any]) -> DecisionRecord | None:
    """None for one of another version's form."""
    try:
        return DecisionRecord.model_validate(found)
    except ValidationError:
        return None
