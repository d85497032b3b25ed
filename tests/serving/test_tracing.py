"""Each request leaves its spans, by the conventions, whichever way it ends; without an endpoint nothing is imported."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from collections.abc import AsyncGenerator, AsyncIterator
from typing import Any

import httpx
import pytest
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanKind, StatusCode

from registry.registry import Registry
from serving.frontdoor import build_app
from serving.service import RoutedService
from serving.tracing import Tracing
from serving.tracing_options import TracingOptions
from tests.serving.conftest import KNOBS, WORDS, Notebook, PlainTemplate
from tests.serving.memory_engine import MemoryEngine
from tests.serving.publisher import BASE, Publisher, WordFeatures, word_router

PARENT = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-{}"
CHAT = {"messages": [{"role": "user", "content": "meow my secret"}]}


class Stand:
    """A traced service; `spans` are those that have ended, by name."""

    def __init__(self, registry: Registry, share: float = 1.0) -> None:
        self.exporter = InMemorySpanExporter()
        options = TracingOptions(endpoint="http://127.0.0.1:1/v1/traces", share=share)
        self.tracing = Tracing(options, exporter=self.exporter)
        self.engine = MemoryEngine()
        words = WordFeatures(list(WORDS.values()))
        self.service = RoutedService(
            self.engine, registry, lambda _: words, PlainTemplate(), KNOBS, BASE, tracing=self.tracing
        )
        transport = httpx.ASGITransport(app=build_app(self.service, Notebook()), raise_app_exceptions=False)
        self.client = httpx.AsyncClient(transport=transport, base_url="http://replica")

    def spans(self) -> list[ReadableSpan]:
        self.tracing._provider.force_flush()
        return list(self.exporter.get_finished_spans())

    def request(self) -> ReadableSpan:
        (span,) = [each for each in self.spans() if each.kind is SpanKind.SERVER]
        return span


@pytest.fixture
async def stand(registry: Registry, publisher: Publisher) -> AsyncIterator[Stand]:
    made = Stand(registry)
    manifest = publisher.publish([publisher.adapter(name, 1) for name in WORDS], word_router(WORDS))
    await made.service.prepare(manifest.number)
    await made.service.commit(manifest.number)
    yield made
    await made.client.aclose()
    made.tracing.close()


def attributes(span: ReadableSpan) -> dict[str, Any]:
    return dict(span.attributes or {})


def names_below(stand: Stand) -> list[str]:
    own = stand.request()
    below = [each for each in stand.spans() if each.parent and each.parent.span_id == own.context.span_id]
    assert all(own.start_time <= each.start_time and each.end_time <= own.end_time for each in below)
    return [each.name for each in sorted(below, key=lambda each: each.start_time)]


@pytest.mark.parametrize("stream", [False, True])
async def test_a_chat_leaves_its_way_through_the_replica(stand: Stand, stream: bool) -> None:
    body = {**CHAT, "stream": stream, "stream_options": {"include_usage": True}} if stream else CHAT
    answer = await stand.client.post("/v1/chat/completions", json=body)
    assert answer.status_code == 200
    span = stand.request()
    found = attributes(span)
    assert span.name == "chat auto" and span.status.status_code is StatusCode.UNSET
    assert found["gen_ai.operation.name"] == "chat" and found["gen_ai.request.model"] == "auto"
    assert found["gen_ai.response.model"] == answer.headers["x-anabranch-adapter"]
    assert found["anabranch.domains"] == ("cats",) and found["anabranch.manifest"] == 1 and found["anabranch.scores"]
    assert found["gen_ai.request.stream"] is stream
    if not stream:
        assert (found["gen_ai.usage.input_tokens"], found["gen_ai.usage.output_tokens"]) == (1, 1)
        assert found["gen_ai.response.id"] == "memory"
    expected = ["anabranch.admit", "anabranch.route", "anabranch.admit", "anabranch.generate"]
    assert names_below(stand) == expected
    generate = next(each for each in stand.spans() if each.name == "anabranch.generate")
    assert [event.name for event in generate.events] == (["first token"] if stream else [])
    told = " ".join(str(attributes(each)) + str(each.events) for each in stand.spans())
    assert "secret" not in told, "prompts and answers are not recorded"


async def test_a_completion_of_several_adapters_is_one_trace(stand: Stand) -> None:
    await stand.client.post("/v1/completions", json={"prompt": ["meow", "woof", "moo"]})
    found = attributes(stand.request())
    assert stand.request().name == "text_completion auto"
    assert found["anabranch.domains"] == ("cats", "dogs", "base") and len(found["anabranch.abstained"]) == 1
    assert names_below(stand).count("anabranch.generate") == 3


async def test_the_client_s_trace_goes_on(stand: Stand) -> None:
    await stand.client.post("/v1/chat/completions", json=CHAT, headers={"traceparent": PARENT.format("01")})
    span = stand.request()
    assert f"{span.context.trace_id:032x}" == "0af7651916cd43dd8448eb211c80319c"
    assert span.parent is not None and f"{span.parent.span_id:016x}" == "b7ad6b7169203331"


@pytest.mark.parametrize(("parent", "share", "traced"), [("00", 1.0, False), ("01", 0.0, True), (None, 0.0, False)])
async def test_who_is_traced_is_the_client_s_to_say_and_else_a_share(
    registry: Registry, parent: str | None, share: float, traced: bool
) -> None:
    stand = Stand(registry, share)
    headers = {} if parent is None else {"traceparent": PARENT.format(parent)}
    assert (await stand.client.post("/v1/chat/completions", json=CHAT, headers=headers)).status_code == 200
    assert bool(stand.spans()) is traced


@pytest.mark.parametrize("parent", ["", "nonsense", "00-0-0-01", "\u00e4"])
async def test_a_parent_that_is_none_is_passed_over(stand: Stand, parent: str) -> None:
    headers = {"traceparent": parent.encode()}
    assert (await stand.client.post("/v1/chat/completions", json=CHAT, headers=headers)).status_code == 200
    assert stand.request().parent is None


async def test_a_refusal_ends_the_span_with_its_kind(stand: Stand) -> None:
    assert (await stand.client.post("/v1/chat/completions", json={**CHAT, "model": "cows"})).status_code == 404
    span = stand.request()
    assert attributes(span)["error.type"] == "404" and span.status.status_code is StatusCode.ERROR


@pytest.mark.parametrize(
    "event", ['data: {"error": 7', 'data: {"error": 7}', 'data: {"usage": {"prompt_tokens": {}}, "choices": [7]}']
)
async def test_an_event_of_another_form_reaches_the_client(stand: Stand, event: str) -> None:
    async def events() -> AsyncGenerator[str, None]:
        yield f"{event}\n\n"
        yield "data: [DONE]\n\n"

    call = stand.engine.parse("chat", {**CHAT, "stream": True})
    answer = stand.tracing.begin(call).over(events())
    assert not isinstance(answer, dict)
    assert [each async for each in answer] == [f"{event}\n\n", "data: [DONE]\n\n"]
    assert stand.request().end_time is not None


async def test_a_client_that_leaves_ends_the_span_and_is_no_failure(stand: Stand) -> None:
    stand.engine.gate.clear()
    asked = asyncio.create_task(stand.service.chat(CHAT))
    await asyncio.sleep(0.02)
    asked.cancel()
    await asyncio.wait({asked})
    span = stand.request()
    assert attributes(span)["error.type"] == "CancelledError" and span.status.status_code is StatusCode.UNSET


@pytest.mark.parametrize("begun", [False, True])
async def test_a_stream_that_is_closed_ends_the_span(stand: Stand, begun: bool) -> None:
    reply = await stand.service.chat({**CHAT, "stream": True})
    assert reply.events is not None
    if begun:
        await anext(reply.events)
        await anext(reply.events)
    await reply.events.aclose()
    assert stand.request().end_time is not None
    assert stand.service.health().leases == 0


def test_without_an_endpoint_nothing_is_imported() -> None:
    code = (
        "import sys; from serving.service import RoutedService; from serving.tracing import Tracing, NONE\n"
        "from serving.tracing_options import TracingOptions\n"
        "Tracing(TracingOptions()).close(); print([name for name in sys.modules if name.startswith('opentelemetry.')])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize("endpoint", ["localhost:4318", "http://user:pass@host/v1/traces", "grpc://host:4317", ""])
def test_an_address_that_is_none_is_refused(endpoint: str) -> None:
    with pytest.raises(ValueError, match="endpoint"):
        TracingOptions(endpoint=endpoint)
