"""The replica's HTTP surface: OpenAI's paths, routing without generation, ingest, domains, health and metrics.

Knows HTTP and the two things it is built from; not vLLM, nor where the control port leads.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any, TypeVar

from fastapi import Depends, FastAPI, Request, Response
from fastapi.responses import JSONResponse
from prometheus_client import CONTENT_TYPE_LATEST
from pydantic import ValidationError
from starlette.middleware.cors import CORSMiddleware
from starlette.requests import ClientDisconnect

from serving.access import GENERATION, Access, Door
from serving.access_options import AccessOptions
from serving.admin import admin_router
from serving.api import ReplicaHealth, RouteRequest, RouteResult, SystemStatus
from serving.caller import CALLER, is_administrator, is_visible
from serving.decisions import decision_router
from serving.error_answers import RETRY_AFTER, add_error_answers
from serving.errors import ControlUnavailable
from serving.event_stream import EventStream
from serving.events import StatusStream
from serving.foreign_pages import ForeignPages
from serving.keys import key_router
from serving.letters import letter_router
from serving.openai_body import bad_request, model_not_found
from serving.page import page_router
from serving.paths import ERRORS, answering, asking, openai_body, sent
from serving.ports import ControlPort
from serving.publications import publication_router
from serving.reply import EXPOSED, Reply
from serving.request_body import read_object, request_id, session_name, top_k, well_formed_target
from serving.served import AUTO, BASE, ServedManifest
from serving.service import RoutedService
from serving.system_metrics import render_metrics
from serving.system_view import Within
from serving.time_limits import TimeLimits
from serving.tracing import CARRIER
from serving.usage import Tally

T = TypeVar("T")

_LOG = logging.getLogger(__name__)


def build_app(service: RoutedService, control: ControlPort, access: Access | None = None) -> FastAPI:
    """The application of one replica; without `access` it asks nobody for a key."""
    app = FastAPI(
        title="Anabranch",
        description="An LLM service that learns domains from a stream. Beside OpenAI's paths, its own.",
        docs_url=None,
        redoc_url=None,
        openapi_url=None,
        responses=ERRORS,
        dependencies=[Depends(well_formed_target)],
    )
    status = Within(lambda: control.status())
    _add_generation(app, service)
    _add_models(app, service)

    async def whole() -> SystemStatus:
        return (await status()).model_copy(update={"replica": service.health()})

    _add_health(app, service, whole)
    app.state.watch = StatusStream(whole, lambda: service.away or service.fenced is not None)
    app.include_router(admin_router(control, whole, app.state.watch))
    app.include_router(decision_router(service))
    app.include_router(publication_router(service))
    app.include_router(letter_router(control))
    app.include_router(page_router())
    app.include_router(key_router(access))

    def count(status: int) -> None:
        service.metrics.refusals.labels(str(status)).inc()

    add_error_answers(app, count)
    _put_before(app, service, access, count)

    # Not FastAPI's own path, which would answer HEAD as well.
    @app.get("/openapi.json", include_in_schema=False)
    async def openapi() -> JSONResponse:
        return JSONResponse(app.openapi())

    return app


def _put_before(app: FastAPI, service: RoutedService, access: Access | None, count: Callable[[int], None]) -> None:
    """Put what bounds and asks a request before the paths, the last added as the outermost."""
    options = AccessOptions() if access is None else access.options
    app.add_middleware(
        TimeLimits,
        body_seconds=options.body_seconds,
        request_seconds=options.request_seconds,
        bounded=GENERATION,
        count=count,
    )
    if access is not None and access.required:
        app.add_middleware(Door, access=access, count=count)
        service.troubles.append(access.trouble)
    else:
        # Where keys are asked for, no page has one that its user did not give it.
        app.add_middleware(ForeignPages, origins=options.origins, count=count)
    if options.origins:
        # Before the door: a browser asks without a key whether it may ask with one.
        app.add_middleware(
            CORSMiddleware,
            allow_origins=options.origins,
            allow_methods=("GET", "POST", "DELETE"),
            allow_headers=("*",),
            expose_headers=EXPOSED,
        )


def _add_generation(app: FastAPI, service: RoutedService) -> None:
    @app.post("/v1/chat/completions", openapi_extra=asking(openai_body("chat completion")))
    async def chat_completions(request: Request) -> Response:
        """Answer a chat, as JSON or, with `"stream": true`, as server-sent events; the field `anabranch` of the answer
        says who answered."""
        return await _generate(request, partial(service.chat, session=_session(request), top_k=top_k(request)))

    @app.post("/v1/completions", openapi_extra=asking(openai_body("completion")))
    async def completions(request: Request) -> Response:
        """Answer one prompt or several; the field `anabranch` of the answer says who answered each."""
        return await _generate(request, partial(service.complete, top_k=top_k(request)))

    @app.post("/v1/route", responses=answering(RouteResult), openapi_extra=asking(RouteRequest))
    async def route(request: Request) -> Response:
        """Say which domain a text belongs to, without generating."""
        asked = _route_request(await read_object(request))
        texts = (asked.input,) if isinstance(asked.input, str) else asked.input
        return sent(_of_caller(await service.route(texts=texts, messages=asked.messages, top_k=asked.top_k)))


def _session(request: Request) -> str | None:
    """The session that a request names, apart from those of other keys."""
    name, caller = session_name(request), CALLER.get()
    return name if name is None or caller is None else f"{caller.key} {name}"


def _route_request(body: dict[str, Any]) -> RouteRequest:
    try:
        asked = RouteRequest.model_validate(body)
    except ValidationError:
        asked = RouteRequest()
    given = [value for value in (asked.input, asked.messages) if value is not None]
    if len(given) != 1 or given == [()]:
        raise bad_request('expected {"input": text or non-empty list of texts} or {"messages": [...]}', "input")
    return asked


def _of_caller(result: RouteResult) -> RouteResult:
    """The same without the scores of domains that the caller's key is not for."""
    decisions = (
        each.model_copy(update={"scores": {name: score for name, score in each.scores.items() if is_visible(name)}})
        for each in result.decisions
    )
    return result.model_copy(update={"decisions": tuple(decisions)})


def _add_models(app: FastAPI, service: RoutedService) -> None:
    @app.get("/v1/models")
    async def models() -> dict[str, Any]:
        """List everything that `model` takes."""
        return {"object": "list", "data": _model_cards(service.served())}

    @app.get("/v1/models/{model:path}")
    async def model(model: str) -> dict[str, Any]:
        """Describe one model."""
        for card in _model_cards(service.served()):
            if card["id"] == model:
                return card
        raise model_not_found(model)


def _bare(health: ReplicaHealth) -> ReplicaHealth:
    """What whoever has no key may know, as one who balances load: nothing of what is served here, nor why it is not."""
    told = {"ready", "manifest"}
    blank = {name: type(value)() if isinstance(value, (tuple, int)) else None for name, value in health}
    return health.model_copy(update={name: value for name, value in blank.items() if name not in told})


def _add_health(app: FastAPI, service: RoutedService, status: Callable[[], Awaitable[SystemStatus]]) -> None:
    def health(well: bool) -> Response:
        whole = service.health()
        told = whole if is_administrator() else _bare(whole)
        return sent(told) if well else sent(told, 503, RETRY_AFTER)

    @app.get("/healthz", responses=answering(ReplicaHealth, 200, 503))
    async def healthz() -> Response:
        """Whether this replica's engine lives."""
        return health(service.engine.failure is None)

    @app.get("/readyz", responses=answering(ReplicaHealth, 200, 503))
    async def readyz() -> Response:
        """Whether this replica takes requests."""
        return health(service.ready)

    @app.get("/metrics", responses={200: {"content": {"text/plain": {}}}})
    async def metrics() -> Response:
        """This replica's and the system's figures as Prometheus text."""
        # A scrape of this replica must not fail with the rest of the system, whichever way that fails; that the rest
        # is missing is told.
        try:
            system, up = render_metrics(await status()), 1
        except ControlUnavailable:
            system, up = "", 0
        except Exception as error:
            _LOG.error("the system's state can't be told to a scrape", exc_info=error)
            system, up = "", 0
        told = f"# TYPE anabranch_control_up gauge\nanabranch_control_up {up}\n"
        text = service.engine.metrics() + service.metrics.text() + told.encode() + system.encode()
        return Response(text, media_type=CONTENT_TYPE_LATEST)


async def _generate(request: Request, generate: Callable[[dict[str, Any]], Awaitable[Reply]]) -> Response:
    body = await read_object(request)
    name = request_id(request, body)
    if name is not None:
        body["request_id"] = name
    CARRIER.set(request.headers)
    caller = CALLER.get()
    tally = Tally(body, caller.spend) if caller is not None and caller.spend is not None else None
    reply = await _unless_disconnected(request, generate(body if tally is None else tally.body))
    reply = reply if tally is None else tally.of(reply)
    if reply.events is not None:
        return EventStream(reply.events, headers=dict(reply.headers))
    return JSONResponse(reply.body, headers=dict(reply.headers))


async def _unless_disconnected(request: Request, work: Awaitable[T]) -> T:
    """The work's result; cancels it, which aborts the generation, when the client goes away before."""
    task = asyncio.ensure_future(work)
    gone = asyncio.ensure_future(_disconnection(request))
    try:
        await asyncio.wait({task, gone}, return_when=asyncio.FIRST_COMPLETED)
        if not task.done():
            task.cancel()
            await asyncio.wait({task})
            if task.cancelled() or task.exception() is not None:
                raise ClientDisconnect
        return task.result()
    finally:
        gone.cancel()
        if not task.done():
            task.cancel()


async def _disconnection(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass


def _model_cards(served: ServedManifest) -> list[dict[str, Any]]:
    created = int(served.manifest.created_at.timestamp()) if served.manifest else int(time.time())
    parents: list[tuple[str, str | None]] = [(AUTO, None), (BASE, None)]
    for name, domain in served.by_domain.items():
        parents.append((name, domain.newest.name))
        parents += [(adapter.name, BASE) for adapter in domain.by_column.values()]
    return [
        {"id": name, "object": "model", "created": created, "owned_by": "anabranch", "parent": parent}
        for name, parent in parents
        if is_visible(name)
    ]
