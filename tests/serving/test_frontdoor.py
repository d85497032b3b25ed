"""The HTTP surface on the memory engine: names, stamps, batches, leases, errors."""

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest
import pytest_asyncio
import uvicorn

from registry.adapters import Adapter
from serving.frontdoor import build_app
from serving.service import RoutedService
from tests.serving.conftest import WORDS, Notebook
from tests.serving.memory_engine import MemoryEngine
from tests.serving.publisher import Publisher, word_router


def chat(model: str | None, text: str, **more: Any) -> dict[str, Any]:
    body = {"messages": [{"role": "user", "content": text}], **more}
    return body if model is None else {"model": model, **body}


def events(text: str) -> list[dict[str, Any]]:
    lines = [line.removeprefix("data: ") for line in text.splitlines() if line]
    assert lines[-1] == "[DONE]" and lines.count("[DONE]") == 1
    return [json.loads(line) for line in lines[:-1]]


@pytest.mark.parametrize(
    ("model", "text", "domain"),
    [
        ("auto", "meow", "cats"),
        (None, "woof", "dogs"),
        ("auto", "moo", "base"),
        ("dogs", "meow", "dogs"),
        ("base", "meow", "base"),
    ],
)
async def test_the_model_names_who_answers(
    client: httpx.AsyncClient, cast: dict[str, Adapter], model: str | None, text: str, domain: str
) -> None:
    answer = await client.post("/v1/chat/completions", json=chat(model, text))
    version = cast[domain].name if domain in cast else "base"
    assert answer.status_code == 200
    assert answer.json()["model"] == version
    assert answer.headers["x-anabranch-domain"] == domain
    assert answer.headers["x-anabranch-adapter"] == version
    assert answer.headers["x-anabranch-manifest"] == "1"
    scored = model in (None, "auto")
    assert ("x-anabranch-score" in answer.headers) == scored
    if scored:
        assert answer.headers["x-anabranch-score"] == ("0.000000" if domain == "base" else "1.000000")


async def test_a_full_version_name_is_a_model(client: httpx.AsyncClient, cast: dict[str, Adapter]) -> None:
    answer = await client.post("/v1/completions", json={"model": cast["cats"].name, "prompt": "woof"})
    assert answer.json()["model"] == cast["cats"].name


@pytest.mark.parametrize("model", ["cows", "cats@v9-00000000", ""])
async def test_other_models_do_not_exist(client: httpx.AsyncClient, cast: dict[str, Adapter], model: Any) -> None:
    answer = await client.post("/v1/completions", json={"model": model, "prompt": "x"})
    assert answer.status_code == 404
    error = answer.json()["error"]
    assert (error["type"], error["code"], error["param"]) == ("NotFoundError", 404, "model")


async def test_before_the_first_publication_auto_is_the_base(client: httpx.AsyncClient) -> None:
    answer = await client.post("/v1/chat/completions", json=chat("auto", "meow"))
    assert answer.status_code == 200 and answer.headers["x-anabranch-adapter"] == "base"
    assert answer.headers["x-anabranch-manifest"] == "0" and "x-anabranch-score" not in answer.headers


async def test_a_manifest_without_a_router_serves_by_name_only(
    client: httpx.AsyncClient, service: RoutedService, publisher: Publisher
) -> None:
    cats = publisher.adapter("cats", 1)
    publisher.publish([cats])
    await service.catch_up()
    auto = await client.post("/v1/chat/completions", json=chat("auto", "meow"))
    named = await client.post("/v1/chat/completions", json=chat("cats", "meow"))
    assert auto.headers["x-anabranch-adapter"] == "base" and named.headers["x-anabranch-adapter"] == cats.name


async def test_a_batch_is_routed_prompt_by_prompt_and_merged_in_order(
    client: httpx.AsyncClient, cast: dict[str, Adapter]
) -> None:
    prompts = ["woof 0", "meow 1", "moo 2", "woof 3", "meow 4"]
    answer = await client.post("/v1/completions", json={"model": "auto", "prompt": prompts, "n": 2})
    cats, dogs = cast["cats"].name, cast["dogs"].name
    who = [dogs, cats, "base", dogs, cats]
    assert answer.headers["x-anabranch-adapter"] == ",".join(who)
    assert answer.headers["x-anabranch-domain"] == "dogs,cats,base,dogs,cats"
    assert answer.headers["x-anabranch-score"] == "1.000000,1.000000,0.000000,1.000000,1.000000"
    body = answer.json()
    assert body["model"] == f"{dogs},{cats},base"
    assert [choice["index"] for choice in body["choices"]] == list(range(10))
    assert [choice["text"] for choice in body["choices"]] == [
        f"{name} {prompt} {sample}" for name, prompt in zip(who, prompts, strict=True) for sample in (0, 1)
    ]
    assert body["usage"] == {"prompt_tokens": 10, "completion_tokens": 10, "total_tokens": 20}


async def test_a_streamed_batch_has_one_id_one_usage_and_the_same_indices(
    client: httpx.AsyncClient, cast: dict[str, Adapter]
) -> None:
    prompts = ["woof 0", "meow 1", "woof 2"]
    body = {"model": "auto", "prompt": prompts, "n": 2, "stream": True, "stream_options": {"include_usage": True}}
    answer = await client.post("/v1/completions", json=body)
    assert answer.headers["content-type"].startswith("text/event-stream")
    assert answer.headers["x-anabranch-domain"] == "dogs,cats,dogs"
    told = events(answer.text)
    assert len({event["id"] for event in told}) == 1
    texts: dict[int, str] = {}
    for event in told[:-1]:
        for choice in event["choices"]:
            texts[choice["index"]] = texts.get(choice["index"], "") + choice["text"]
    who = [cast[domain].name for domain in ("dogs", "cats", "dogs")]
    expected = [f"{name} {p} {s} " for name, p in zip(who, prompts, strict=True) for s in (0, 1)]
    assert [texts[index] for index in range(6)] == expected
    assert told[-1]["choices"] == [] and told[-1]["usage"]["prompt_tokens"] == 6


async def test_token_ids_are_decoded_for_routing(client: httpx.AsyncClient, cast: dict[str, Adapter]) -> None:
    answer = await client.post("/v1/completions", json={"model": "auto", "prompt": [1, 2, 3]})
    assert answer.headers["x-anabranch-domain"] == "base"
    answer = await client.post("/v1/completions", json={"model": "auto", "prompt": [99]})
    assert answer.status_code == 400


async def test_the_terminator_is_among_the_stops(
    client: httpx.AsyncClient, engine: MemoryEngine, cast: dict[str, Adapter], monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[Any] = []
    parse = engine.parse
    monkeypatch.setattr(engine, "parse", lambda kind, body: seen.append(body.get("stop")) or parse(kind, body))
    plain = ({}, {"stop": "x"}, {"stop": ["x", "y"]}, {"stop": ["\n"]}, {"response_format": {"type": "text"}})
    for more in (*plain, {"tools": [{}], "tool_choice": "auto"}):
        await client.post("/v1/chat/completions", json=chat("base", "hi", **more))
    assert seen == [["\n"], ["x", "\n"], ["x", "y", "\n"], ["\n"], ["\n"], ["\n"]]
    seen.clear()
    grammars = ({"response_format": {"type": "json_object"}}, {"structured_outputs": {"regex": "a"}})
    for more in (*grammars, {"tools": [{}], "tool_choice": "required"}, {"ignore_eos": True}):
        await client.post("/v1/chat/completions", json=chat("base", "hi", **more))
    assert seen == [None] * 4


async def test_a_request_keeps_its_version_while_another_is_published(
    client: httpx.AsyncClient,
    service: RoutedService,
    engine: MemoryEngine,
    publisher: Publisher,
    cast: dict[str, Adapter],
) -> None:
    engine.gate.clear()
    early = asyncio.create_task(client.post("/v1/chat/completions", json=chat("auto", "meow")))
    while not engine.running:
        await asyncio.sleep(0.001)
    cats2 = publisher.adapter("cats", 2)
    publisher.publish([cats2, cast["dogs"]], word_router(WORDS))
    await service.catch_up()
    late = asyncio.create_task(client.post("/v1/chat/completions", json=chat("auto", "meow")))
    while engine.running < 2:
        await asyncio.sleep(0.001)
    assert cast["cats"].name in engine.present
    engine.gate.set()
    assert (await early).json()["model"] == cast["cats"].name
    assert (await early).headers["x-anabranch-manifest"] == "1"
    assert (await late).json()["model"] == cats2.name
    await service.settle()
    assert cast["cats"].name not in engine.present
    assert service.health().leases == 0


class Client:
    """An ASGI client that can go away: it calls the application itself and sends the disconnect when told."""

    def __init__(self, app: Any, path: str, body: dict[str, Any]) -> None:
        self.sent: list[dict[str, Any]] = []
        self._gone = asyncio.Event()
        self._body = [{"type": "http.request", "body": json.dumps(body).encode(), "more_body": False}]
        scope = {"type": "http", "method": "POST", "path": path, "raw_path": path.encode(), "headers": []}
        scope |= {"query_string": b"", "http_version": "1.1", "scheme": "http", "server": ("replica", 80)}
        scope |= {"asgi": {"version": "3.0", "spec_version": "2.3"}, "root_path": "", "client": ("me", 1)}
        self.task = asyncio.create_task(app(scope, self._receive, self._send))

    def go_away(self) -> None:
        self._gone.set()

    async def _receive(self) -> dict[str, Any]:
        if self._body:
            return self._body.pop()
        await self._gone.wait()
        return {"type": "http.disconnect"}

    async def _send(self, message: dict[str, Any]) -> None:
        self.sent.append(message)


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("prompt", ["meow a b c", ["meow a b c", "woof a b c"]])
async def test_a_client_that_goes_away_ends_its_generation_and_its_lease(
    service: RoutedService,
    engine: MemoryEngine,
    notebook: Notebook,
    cast: dict[str, Adapter],
    stream: bool,
    prompt: Any,
) -> None:
    engine.gate.clear()
    body = {"model": "auto", "prompt": prompt, "stream": stream}
    visitor = Client(build_app(service, notebook), "/v1/completions", body)
    while not engine.running:
        await asyncio.sleep(0.001)
    assert service.health().leases > 0
    visitor.go_away()
    await asyncio.wait({visitor.task}, timeout=5)
    assert visitor.task.done()
    assert engine.running == 0
    assert service.health().leases == 0


async def test_a_stream_that_is_never_begun_holds_no_lease(service: RoutedService, cast: dict[str, Adapter]) -> None:
    reply = await service.complete({"model": "cats", "prompt": "x", "stream": True})
    assert service.health().leases == 1 and reply.events is not None
    await reply.events.aclose()
    assert service.health().leases == 0


@pytest.mark.parametrize(
    "content",
    [b"", b"{", b"[]", b'{"a": NaN}', b'{"prompt": "\\ud800"}', b"\xff\xfe", b"[" * 100_000],
)
async def test_what_is_no_json_object_is_refused(client: httpx.AsyncClient, content: bytes) -> None:
    for path in ("/v1/chat/completions", "/v1/completions", "/v1/route"):
        answer = await client.post(path, content=content)
        assert answer.status_code == 400, path
        assert answer.json()["error"]["type"] == "BadRequestError"


async def test_what_the_engine_refuses_is_passed_on(client: httpx.AsyncClient, cast: dict[str, Adapter]) -> None:
    answer = await client.post("/v1/chat/completions", json={"model": "auto"})
    assert answer.status_code == 400 and answer.json()["error"]["param"] == "messages"
    for prompt in (None, [], {}):
        answer = await client.post("/v1/completions", json={"model": "auto", "prompt": prompt})
        assert answer.status_code == 400


async def test_a_prompt_that_no_context_holds_is_refused_before_it_is_scored(
    client: httpx.AsyncClient, cast: dict[str, Adapter], engine: MemoryEngine
) -> None:
    text = "x" * (128 * engine.context_tokens + 1)
    for path, body in (("completions", {"prompt": ["meow", text]}), ("route", {"input": text})):
        answer = await client.post(f"/v1/{path}", json=body)
        assert answer.status_code == 400 and "context length" in answer.json()["error"]["message"]


async def test_an_unknown_path_answers_in_openai_form(client: httpx.AsyncClient) -> None:
    answer = await client.get("/v1/nothing")
    assert answer.status_code == 404 and answer.json()["error"]["code"] == 404
    answer = await client.get("/v1/completions")
    assert answer.status_code == 405 and answer.json()["error"]["code"] == 405


async def test_a_fenced_replica_is_not_ready_and_says_when_to_come_again(
    client: httpx.AsyncClient, service: RoutedService, engine: MemoryEngine
) -> None:
    assert (await client.get("/readyz")).status_code == 200
    service.fence("cut off")
    answer = await client.post("/v1/chat/completions", json=chat("base", "hi"))
    assert answer.status_code == 503 and answer.headers["retry-after"]
    assert "cut off" in answer.json()["error"]["message"]
    assert (await client.get("/readyz")).status_code == 503
    assert (await client.get("/healthz")).status_code == 200
    service.unfence()
    assert (await client.get("/readyz")).status_code == 200
    engine.failure = "dead"
    assert (await client.get("/healthz")).status_code == 503
    assert (await client.post("/v1/chat/completions", json=chat("base", "hi"))).status_code == 503


async def test_a_replica_that_is_away_is_not_ready_and_answers_all_the_same(
    client: httpx.AsyncClient, service: RoutedService
) -> None:
    service.away = True
    assert (await client.get("/readyz")).status_code == 503
    assert (await client.post("/v1/chat/completions", json=chat("base", "hi"))).status_code == 200
    assert service.fenced is None and (await client.get("/healthz")).status_code == 200


async def test_models_lists_everything_that_can_be_asked_for(
    client: httpx.AsyncClient, cast: dict[str, Adapter]
) -> None:
    cards = (await client.get("/v1/models")).json()["data"]
    names = [card["id"] for card in cards]
    assert names == ["auto", "base", "cats", cast["cats"].name, "dogs", cast["dogs"].name]
    for name in names:
        assert (await client.get(f"/v1/models/{name}")).json()["id"] == name
    assert (await client.get("/v1/models/cows")).status_code == 404


async def test_route_decides_without_generating(
    client: httpx.AsyncClient, engine: MemoryEngine, cast: dict[str, Adapter]
) -> None:
    answer = (await client.post("/v1/route", json={"input": ["meow", "moo"]})).json()
    assert answer["manifest"] == 1
    first, second = answer["decisions"]
    assert (first["domain"], first["adapter"], first["score"]) == ("cats", cast["cats"].name, 1.0)
    assert first["scores"] == {"cats": 1.0, "dogs": 0.0}
    assert (second["domain"], second["adapter"]) == ("base", "base")
    single = await client.post("/v1/route", json=chat(None, "woof"))
    assert single.json()["decisions"][0]["domain"] == "dogs"
    for bad in ({}, {"input": []}, {"input": 3}, {"input": ["a", 1]}, {"messages": []}):
        assert (await client.post("/v1/route", json=bad)).status_code == 400


async def test_metrics_join_engine_replica_and_system(
    client: httpx.AsyncClient, notebook: Notebook, cast: dict[str, Adapter]
) -> None:
    await client.post("/v1/completions", json={"model": "auto", "prompt": ["meow", "moo"]})
    text = (await client.get("/metrics")).text
    version = cast["cats"].name
    assert f'anabranch_requests_total{{adapter="{version}",domain="cats",model="auto"}} 1.0' in text
    for line in (
        'anabranch_abstentions_total{reason="low-confidence"} 1.0',
        "anabranch_manifest_number 1.0",
        "memory_engine 1",
    ):
        assert line in text
    for name in (
        "anabranch_route_seconds",
        "anabranch_leases",
        "anabranch_prepare_seconds",
        "anabranch_published_manifest_number 7.0",
    ):
        assert name in text
    assert "anabranch_control_up 1" in text
    notebook.up = False
    assert "anabranch_control_up 0" in (await client.get("/metrics")).text


async def test_stop_waits_for_what_is_in_flight(
    client: httpx.AsyncClient, service: RoutedService, engine: MemoryEngine, cast: dict[str, Adapter]
) -> None:
    engine.gate.clear()
    asked = asyncio.create_task(client.post("/v1/chat/completions", json=chat("cats", "hi")))
    while not engine.running:
        await asyncio.sleep(0.001)
    stopping = asyncio.create_task(service.stop())
    await asyncio.sleep(0.05)
    assert engine.failure is None and not service.ready
    engine.gate.set()
    assert (await asked).status_code == 200
    await stopping
    assert engine.failure == "stopped"


async def test_concurrent_requests_are_scored_as_one_batch(
    client: httpx.AsyncClient, service: RoutedService, cast: dict[str, Adapter]
) -> None:
    texts = ["meow", "woof", "moo"] * 10
    answers = await asyncio.gather(*(client.post("/v1/chat/completions", json=chat("auto", t)) for t in texts))
    expected = {"meow": "cats", "woof": "dogs", "moo": "base"}
    assert [a.headers["x-anabranch-domain"] for a in answers] == [expected[text] for text in texts]


async def test_over_a_socket_a_stream_arrives_as_it_is_made_and_a_hang_up_ends_it(
    service: RoutedService, engine: MemoryEngine, notebook: Notebook, cast: dict[str, Adapter]
) -> None:
    """On uvicorn, whose disconnects come in other ways than a test transport's."""
    config = uvicorn.Config(build_app(service, notebook), port=0, log_level="warning", lifespan="off")
    server = uvicorn.Server(config)
    serving = asyncio.create_task(server.serve())
    while not server.started:
        await asyncio.sleep(0.01)
    address = f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
    try:
        async with httpx.AsyncClient(base_url=address) as socket:
            body = {"model": "cats", "prompt": "a b c", "stream": True}
            async with socket.stream("POST", "/v1/completions", json=body) as answer:
                lines = answer.aiter_lines()
                assert answer.headers["x-anabranch-domain"] == "cats"
                assert (await anext(lines)).startswith("data: {")
                engine.gate.clear()
                assert engine.running == 1 and service.health().leases == 1
            for _ in range(300):
                if not service.health().leases:
                    break
                await asyncio.sleep(0.01)
            assert service.health().leases == 0 and engine.running == 0
            with pytest.raises(httpx.ReadTimeout):
                await socket.post("/v1/completions", json={"model": "cats", "prompt": "x"}, timeout=0.2)
            for _ in range(300):
                if not engine.running:
                    break
                await asyncio.sleep(0.01)
            assert service.health().leases == 0 and engine.running == 0
    finally:
        server.should_exit = True
        await serving


@pytest_asyncio.fixture(autouse=True)
async def nothing_is_leaked(service: RoutedService) -> AsyncIterator[None]:
    yield
    assert service.health().leases == 0
