"""The replica's HTTP surface: OpenAI's paths, routing without generation, ingest, domains, health and metrics.

Knows HTTP and the two things it is built from; not vLLM, nor where the control port leads.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

from fastapi import FastAPI, Request, Response
from fastapi.responses import JSONResponse, StreamingResponse
from prometheus_client import CONTENT_TYPE_LATEST
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.types import Receive, Scope, Send

from serving.admin import admin_router
from serving.errors import ControlUnavailable, InvalidRecord, Refused, ServingError, Unavailable, UnknownName
from serving.openai_body import bad_request, error_body, model_not_found
from serving.ports import ControlPort
from serving.reply import LeasedEvents, Reply
from serving.request_body import read_object
from serving.selection import Choice
from serving.served import AUTO, BASE, ServedManifest
from serving.service import Routed, RoutedService

T = TypeVar("T")
RETRY_AFTER_SECONDS = 1


def build_app(service: RoutedService, control: ControlPort) -> FastAPI:
    """The application of one replica."""
    app = FastAPI(title="Anabranch", docs_url=None, redoc_url=None, openapi_url=None)
    _add_generation(app, service)
    _add_models(app, service)
    _add_health(app, service, control)
    app.include_router(admin_router(service, control))
    _add_error_answers(app, service)
    return app


def _add_generation(app: FastAPI, service: RoutedService) -> None:
    @app.post("/v1/chat/completions")
    async def chat_completions(request: Request) -> Response:
        return await _generate(request, service.chat)

    @app.post("/v1/completions")
    async def completions(request: Request) -> Response:
        return await _generate(request, service.complete)

    @app.post("/v1/route")
    async def route(request: Request) -> Response:
        body = await read_object(request)
        messages, texts = body.get("messages"), body.get("input")
        if isinstance(messages, list) and messages and texts is None:
            return JSONResponse(_decisions(await service.route(messages=messages)))
        if isinstance(texts, str):
            texts = [texts]
        if not isinstance(texts, list) or not texts or not all(isinstance(text, str) for text in texts):
            raise bad_request('expected {"input": text or non-empty list of texts} or {"messages": [...]}', "input")
        return JSONResponse(_decisions(await service.route(texts=texts)))


def _add_models(app: FastAPI, service: RoutedService) -> None:
    @app.get("/v1/models")
    async def models() -> dict[str, Any]:
        return {"object": "list", "data": _model_cards(service.served())}

    @app.get("/v1/models/{model:path}")
    async def model(model: str) -> dict[str, Any]:
        for card in _model_cards(service.served()):
            if card["id"] == model:
                return card
        raise model_not_found(model)


def _add_health(app: FastAPI, service: RoutedService, control: ControlPort) -> None:
    @app.get("/healthz")
    async def healthz() -> JSONResponse:
        return JSONResponse(service.health(), 200 if service.engine.failure is None else 503)

    @app.get("/readyz")
    async def readyz() -> JSONResponse:
        return JSONResponse(service.health(), 200 if service.ready else 503)

    @app.get("/metrics")
    async def metrics() -> Response:
        try:
            system, up = await control.metrics(), 1
        except ControlUnavailable:
            system, up = "", 0
        # A scrape of this replica must not fail with the rest of the system; that the rest is missing is told.
        told = f"# TYPE anabranch_control_up gauge\nanabranch_control_up {up}\n"
        text = service.engine.metrics() + service.metrics.text() + told.encode() + system.encode()
        return Response(text, media_type=CONTENT_TYPE_LATEST)


def _add_error_answers(app: FastAPI, service: RoutedService) -> None:
    def answer(status: int, body: dict[str, Any], headers: dict[str, str] | None = None) -> JSONResponse:
        service.metrics.refusals.labels(str(status)).inc()
        return JSONResponse(body, status, headers)

    @app.exception_handler(Refused)
    async def refused(_: Request, error: Refused) -> JSONResponse:
        return answer(error.status, error.body)

    @app.exception_handler(ServingError)
    async def failed(_: Request, error: ServingError) -> JSONResponse:
        if isinstance(error, Unavailable | ControlUnavailable):
            headers = {"retry-after": str(RETRY_AFTER_SECONDS)}
            return answer(503, error_body(str(error), "ServiceUnavailableError", 503), headers)
        if isinstance(error, InvalidRecord):
            return answer(400, error_body(str(error), "BadRequestError", 400))
        if isinstance(error, UnknownName):
            return answer(404, error_body(str(error), "NotFoundError", 404))
        return answer(500, error_body(str(error), "InternalServerError", 500))

    @app.exception_handler(HTTPException)
    async def http_error(_: Request, error: HTTPException) -> JSONResponse:
        return answer(error.status_code, error_body(str(error.detail), "BadRequestError", error.status_code))

    @app.exception_handler(ClientDisconnect)
    async def gone(_: Request, error: ClientDisconnect) -> Response:
        return Response(status_code=499)

    @app.exception_handler(Exception)
    async def unexpected(_: Request, error: Exception) -> JSONResponse:
        # The server raises it again after this answer, so that it is in the log with its traceback.
        return answer(500, error_body(f"{type(error).__name__} in the server", "InternalServerError", 500))


async def _generate(request: Request, generate: Callable[[dict[str, Any]], Awaitable[Reply]]) -> Response:
    body = await read_object(request)
    if "x-request-id" in request.headers:
        body.setdefault("request_id", request.headers["x-request-id"])
    reply = await _unless_disconnected(request, generate(body))
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


class EventStream(StreamingResponse):
    """Server-sent events that are closed however the response ends: sent, failed, or the client gone."""

    media_type = "text/event-stream"

    def __init__(self, events: LeasedEvents, headers: dict[str, str]) -> None:
        # Proxies that buffer would turn a stream into one late answer.
        super().__init__(events, headers={"cache-control": "no-cache", "x-accel-buffering": "no", **headers})
        self._events = events

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await super().__call__(scope, receive, send)
        finally:
            await self._events.aclose()


def _model_cards(served: ServedManifest) -> list[dict[str, Any]]:
    created = int(served.manifest.created_at.timestamp()) if served.manifest else int(time.time())
    parents: list[tuple[str, str | None]] = [(AUTO, None), (BASE, None)]
    for domain, adapter in sorted(served.by_domain.items()):
        parents += [(domain, adapter.name), (adapter.name, BASE)]
    return [
        {"id": name, "object": "model", "created": created, "owned_by": "anabranch", "parent": parent}
        for name, parent in parents
    ]


def _decisions(routed: Routed) -> dict[str, Any]:
    return {
        "manifest": routed.served.number,
        "decisions": [_decision(index, choice) for index, choice in enumerate(routed.choices)],
    }


def _decision(index: int, choice: Choice) -> dict[str, Any]:
    return {
        "index": index,
        "domain": choice.domain,
        "adapter": choice.version,
        "score": None if choice.decision is None else choice.decision.score,
        "scores": {} if choice.decision is None else dict(choice.decision.scores),
    }
