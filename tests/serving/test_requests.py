"""A request's meaning: the parsed one decides, null is absent, batches are bounded and told of in the body."""

from __future__ import annotations

import asyncio
import json
import logging
from typing import Any

import httpx
import openai
import pytest

from learning.errors import LearningError
from registry.adapters import Adapter
from serving.api import ErrorAnswer, RouteResult
from serving.errors import ControlUnavailable, EngineFailed, Refused
from serving.frontdoor import build_app
from serving.service import RoutedService
from tests.serving.conftest import Notebook
from tests.serving.memory_engine import MemoryEngine

REMOTE = """\x1b[36mray::CoordinatorActor.call()\x1b[39m (pid=4242, ip=10.1.2.3, actor_id=8f00ab)
  File "/opt/anabranch/actors/coordinator.py", line 300, in remove
    raise UnknownDomain(f"no domain {domain}")
actors.errors.UnknownDomain: no domain 'NOPE'; see `anabranch domains list`"""


def events(text: str) -> list[dict[str, Any]]:
    lines = [line.removeprefix("data: ") for line in text.splitlines() if line]
    return [json.loads(line) for line in lines if line != "[DONE]"]


GOOD: list[Any] = [
    [""],
    ["meow", "", "woof"],
    [1, 2.0],
    [True, False],
    [[1, 2.0], [3]],
    ["1", "2"],
    "1",
    [1],
    [[1]],
    ["meow", "woof"],
]
BAD: list[Any] = [[1, None], [1.5], [[1], "x"], [[["a"]]], 7, {}, [], "MISSING", None, [-1], ["x", 1]]


@pytest.mark.parametrize("prompt", [*GOOD, *BAD], ids=str)
async def test_auto_and_base_read_a_prompt_alike(client: httpx.AsyncClient, cast: Any, prompt: Any) -> None:
    body = {} if prompt == "MISSING" else {"prompt": prompt}
    auto, base = [await client.post("/v1/completions", json={"model": model, **body}) for model in ("auto", "base")]
    assert auto.status_code == base.status_code == (400 if prompt in BAD else 200), auto.text
    if auto.status_code == 200:
        own = [[choice["text"].split(" ", 1)[1] for choice in answer.json()["choices"]] for answer in (auto, base)]
        assert own[0] == own[1]


@pytest.mark.parametrize("samples", [2, 2.0, "2"])
async def test_a_batch_counts_its_samples_as_the_engine_does(
    client: httpx.AsyncClient, cast: Any, samples: Any
) -> None:
    body = {"prompt": ["meow", "moo", "woof"], "n": samples, "stream": "false"}
    answer = (await client.post("/v1/completions", json=body)).json()
    assert [choice["index"] for choice in answer["choices"]] == list(range(6))
    assert [choice["text"].split()[1] for choice in answer["choices"]] == ["meow", "meow", "moo", "moo", "woof", "woof"]


@pytest.mark.parametrize("truth", [True, "true", 1])
async def test_a_flag_is_read_as_the_engine_reads_it(
    client: httpx.AsyncClient, engine: MemoryEngine, cast: Any, truth: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[Any] = []
    parse = engine.parse
    monkeypatch.setattr(engine, "parse", lambda kind, body: seen.append(body.get("stop")) or parse(kind, body))
    streamed = await client.post("/v1/completions", json={"prompt": "meow", "stream": truth, "ignore_eos": truth})
    assert streamed.headers["content-type"].startswith("text/event-stream") and seen == [None]


@pytest.mark.parametrize(
    ("messages", "domain"),
    [
        ([{"role": "user", "content": [{"type": "text", "text": "meow"}, {"type": "image_url"}]}], "cats"),
        ([{"role": "user", "content": [{"type": "text", "text": "x"}, {"type": "text", "text": "woof"}]}], "dogs"),
        ([{"role": "user", "content": "meow", "name": "me"}], "cats"),
        ([{"role": "user", "content": ["woof"]}], "dogs"),
        ([{"role": "zebra", "content": "woof"}], "dogs"),
        ([{"role": "assistant", "content": None, "tool_calls": [{"id": "1"}]}], "base"),
        ([{"role": "user"}], "base"),
    ],
)
async def test_chats_are_read_alike_by_route_and_answer(
    client: httpx.AsyncClient, cast: Any, messages: Any, domain: str
) -> None:
    routed = await client.post("/v1/route", json={"messages": messages, "input": None})
    answered = await client.post("/v1/chat/completions", json={"messages": messages, "model": None})
    assert RouteResult.model_validate(routed.json()).decisions[0].domain == domain
    assert answered.headers["x-anabranch-domain"] == domain


@pytest.mark.parametrize("messages", [[], [1], [{}], [{"role": 5, "content": "x"}], "x", None])
async def test_bad_chats_are_refused_alike(client: httpx.AsyncClient, cast: Any, messages: Any) -> None:
    for path in ("route", "chat/completions"):
        assert (await client.post(f"/v1/{path}", json={"messages": messages})).status_code == 400


async def test_null_is_absent(
    client: httpx.AsyncClient, engine: MemoryEngine, cast: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[Any] = []
    parse = engine.parse
    monkeypatch.setattr(engine, "parse", lambda kind, body: seen.append(body) or parse(kind, body))
    nothing = dict.fromkeys(["model", "n", "stop", "max_tokens", "stream", "stream_options", "request_id", "user"])
    kept = {"prompt": "meow", "logit_bias": {"1": None}}
    answer = await client.post("/v1/completions", json={**kept, **nothing})
    assert answer.status_code == 200 and answer.headers["x-anabranch-domain"] == "cats"
    assert seen == [{**kept, "stop": ["\n"]}]
    assert (await client.post("/v1/route", json={"input": "meow", "messages": None})).status_code == 200
    assert (await client.post("/v1/domains/cats/pin", json={"version": None})).status_code == 200
    assert (await client.post("/v1/route", json={"input": "x", "messages": [{"role": "user"}]})).status_code == 400


@pytest.mark.parametrize("count", [1, 16, 17, 256])
@pytest.mark.parametrize("stream", [False, True])
async def test_headers_are_bounded_and_the_body_tells_all(
    client: httpx.AsyncClient, cast: dict[str, Adapter], count: int, stream: bool
) -> None:
    texts = (["woof", "meow", "moo"] * count)[:count]
    answer = await client.post("/v1/completions", json={"prompt": texts, "stream": stream})
    assert answer.status_code == 200
    who = {"woof": "dogs", "meow": "cats", "moo": "base"}
    more = ["..."] if count > 16 else []
    assert answer.headers["x-anabranch-domain"].split(",") == [who[text] for text in texts[:16]] + more
    assert len(answer.headers["x-anabranch-score"].split(",")) == min(count, 16) + len(more)
    assert all(len(value) < 2048 and value.isascii() for value in answer.headers.values())
    told = events(answer.text) if stream else [answer.json()]
    assert [position for position, each in enumerate(told) if "anabranch" in each] == [0]
    fingerprint = f"1:{answer.headers['x-anabranch-adapter']}"
    assert {each["system_fingerprint"] for each in told} == {fingerprint}
    whole = RouteResult.model_validate(told[0]["anabranch"])
    assert whole.manifest == 1 and [decision.index for decision in whole.decisions] == list(range(count))
    assert [decision.domain for decision in whole.decisions] == [who[text] for text in texts]
    assert all(decision.adapter.split("@")[0] == decision.domain for decision in whole.decisions)
    assert "scores" not in told[0]["anabranch"]["decisions"][0]


async def test_openais_client_is_not_disturbed(client: httpx.AsyncClient, cast: Any) -> None:
    ai = openai.AsyncOpenAI(api_key="none", base_url="http://replica/v1", http_client=client, max_retries=0)
    whole = await ai.completions.create(model="auto", prompt=["meow", "woof"])
    assert [choice.text.split()[1] for choice in whole.choices] == ["meow", "woof"]
    assert whole.model_extra and [d["domain"] for d in whole.model_extra["anabranch"]["decisions"]] == ["cats", "dogs"]
    asked = [{"role": "user", "content": "meow"}]
    chat = await ai.chat.completions.create(model="auto", messages=asked)
    assert chat.model_extra and [d["domain"] for d in chat.model_extra["anabranch"]["decisions"]] == ["cats"]
    parts = [part async for part in await ai.chat.completions.create(model="auto", messages=asked, stream=True)]
    assert [bool((part.model_extra or {}).get("anabranch")) for part in parts] == [True] + [False] * (len(parts) - 1)
    texts = {0: "", 1: ""}
    async for part in await ai.completions.create(model="auto", prompt=["meow", "woof"], stream=True):
        for choice in part.choices:
            texts[choice.index] += choice.text
    assert [texts[index].split()[1] for index in (0, 1)] == ["meow", "woof"]
    with pytest.raises(openai.BadRequestError, match="at most 256 prompts, got 257"):
        await ai.completions.create(model="auto", prompt=["x"] * 257)


@pytest.mark.parametrize("model", ["auto", "base", "cats"])
async def test_prompts_of_one_request_are_bounded(client: httpx.AsyncClient, cast: Any, model: str) -> None:
    for count, status in ((256, 200), (257, 400)):
        for prompts in (["x"] * count, [[1]] * count):
            answer = await client.post("/v1/completions", json={"model": model, "prompt": prompts})
            assert answer.status_code == status
        assert (await client.post("/v1/route", json={"input": ["x"] * count})).status_code == status
    assert "at most 256 prompts, got 257" in answer.json()["error"]["message"]
    assert (await client.post("/v1/completions", json={"prompt": [1] * 1000})).status_code == 200


@pytest.mark.parametrize(("name", "status"), [("a" * 128, 200), ("a" * 129, 400), ("", 400), ("a b", 400), ("é", 400)])
async def test_a_request_id_is_bounded_and_legal(client: httpx.AsyncClient, name: str, status: int) -> None:
    header = {"x-request-id": name.encode()}
    assert (await client.post("/v1/completions", json={"prompt": "x"}, headers=header)).status_code == status
    assert (await client.post("/v1/completions", json={"prompt": "x", "request_id": name})).status_code == status
    assert (await client.post("/v1/completions", json={"prompt": "x", "request_id": 7})).status_code == 400


async def test_two_requests_of_one_id_get_their_own_answers(client: httpx.AsyncClient, cast: Any) -> None:
    texts = ["meow", "woof"] * 5
    ask = [client.post("/v1/completions", json={"prompt": t}, headers={"x-request-id": "same"}) for t in texts]
    answers = await asyncio.gather(*ask)
    assert [answer.json()["choices"][0]["text"].split()[1] for answer in answers] == texts


@pytest.mark.parametrize(("verb", "path", "allow"), [("GET", "/v1/completions", "POST"), ("HEAD", "/healthz", "GET")])
async def test_another_method_is_told_which_one_is_taken(
    client: httpx.AsyncClient, verb: str, path: str, allow: str
) -> None:
    for method in (verb, "OPTIONS"):
        answer = await client.request(method, path, headers={"origin": "http://page"})
        assert answer.status_code == 405 and answer.headers["allow"] == allow
        assert not any(name.startswith("access-control") for name in answer.headers)


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (ControlUnavailable(REMOTE), 503),
        (ControlUnavailable("10.0.0.7:6379 is away; /data/home/lock is held (pid=7)"), 503),
        (Refused(503, {"error": {"message": REMOTE, "type": "X", "param": None, "code": 503}}), 503),
        (Refused(400, {"error": {"message": REMOTE, "type": "X", "param": None, "code": 400}}), 400),
        (EngineFailed(REMOTE), 500),
        (Refused(500, {"error": {"message": REMOTE, "type": "X", "param": None, "code": 500}}), 500),
        (RuntimeError(REMOTE), 500),
        (KeyError("/secret/path"), 500),
    ],
)
async def test_an_answer_tells_nothing_of_the_inside(
    client: httpx.AsyncClient,
    notebook: Notebook,
    error: Exception,
    status: int,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def fail(domain: str) -> None:
        raise error

    monkeypatch.setattr(notebook, "remove", fail)
    with caplog.at_level(logging.ERROR):
        answer = await client.delete("/v1/domains/cats")
    assert answer.status_code == status
    said = ErrorAnswer.model_validate(answer.json()).error
    assert said.code == status and said.message and len(said.message) <= 600 and "\n" not in said.message
    for inside in ("Traceback", "File ", ".py", "10.", "pid", "/opt", "/data", "/secret", "ray::", "\x1b", "Actor"):
        assert inside not in said.message
    assert ("retry-after" in answer.headers) == (status == 503)
    if status == 500:
        reference = said.message.split()[-1]
        assert any(reference in record.getMessage() and record.exc_info for record in caplog.records)
    elif REMOTE in str(error):
        assert said.message == "no domain 'NOPE'; see `anabranch domains list`"


async def test_an_empty_text_among_others_is_the_bases(
    client: httpx.AsyncClient, service: RoutedService, cast: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    scorer = service.served().scorer
    route = scorer.route
    monkeypatch.setattr(scorer, "route", lambda texts: route(texts) if all(texts) else 1 / 0)
    answer = await client.post("/v1/completions", json={"prompt": ["", "meow", "", "woof"]})
    assert answer.headers["x-anabranch-domain"] == "base,cats,base,dogs"
    assert answer.headers["x-anabranch-score"] == ",1.000000,,1.000000"
    assert [decision["score"] for decision in answer.json()["anabranch"]["decisions"]] == [None, 1.0, None, 1.0]


async def test_a_prompt_that_can_not_be_scored_is_a_bad_request_to_its_sender_alone(
    client: httpx.AsyncClient, service: RoutedService, cast: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    scorer = service.served().scorer
    route = scorer.route

    def choosy(texts: list[str]) -> Any:
        if "poison" in texts:
            raise LearningError("no tokens in /data/model")
        return route(texts)

    monkeypatch.setattr(scorer, "route", choosy)
    texts = ["meow", "poison", "woof", "meow"]
    answers = await asyncio.gather(*(client.post("/v1/completions", json={"prompt": text}) for text in texts))
    assert [answer.status_code for answer in answers] == [200, 400, 200, 200]
    assert "no tokens" in answers[1].text and "/data" not in answers[1].text


async def test_an_unready_replica_says_when_to_come_again(client: httpx.AsyncClient, service: RoutedService) -> None:
    service.fence("no /data/registry for 30 s")
    answer = await client.get("/readyz")
    assert answer.status_code == 503 and answer.headers["retry-after"]
    assert answer.json()["fenced"] == "no ... for 30 s"
    service.unfence()


async def test_openapi_describes_every_path_with_its_bodies(client: httpx.AsyncClient, service: RoutedService) -> None:
    answer = await client.get("/openapi.json")
    document = answer.json()
    routes = {(route.path, method) for route in build_app(service, Notebook()).routes for method in route.methods}
    told = {(path, verb.upper()) for path, verbs in document["paths"].items() for verb in verbs}
    untold = {(path.replace(":path", ""), verb) for path, verb in routes} - told
    assert untold == {("/openapi.json", "GET"), ("/", "GET"), ("/assets/{name}", "GET")}
    schemas = document["components"]["schemas"]
    for path, status, model in (
        ("/v1/status", "200", "SystemStatus"),
        ("/v1/records", "202", "RecordsResult"),
        ("/v1/route", "200", "RouteResult"),
        ("/v1/domains", "200", "DomainList"),
        ("/v1/domains/{domain}/pin", "200", "CommandResult"),
        ("/readyz", "503", "ReplicaHealth"),
    ):
        (described,) = document["paths"][path].values()
        schema = described["responses"][status]["content"]["application/json"]["schema"]
        assert schema["$ref"].endswith(f"/{model}") and schemas[model]["properties"]
        assert described["responses"]["default"]["content"]["application/json"]["schema"]["$ref"].endswith(
            "ErrorAnswer"
        )
    for path in ("/v1/completions", "/v1/chat/completions", "/v1/route", "/v1/records"):
        body = document["paths"][path]["post"]["requestBody"]["content"]["application/json"]["schema"]
        assert body.get("description"), path
    for hidden in ("/docs", "/redoc"):
        assert (await client.get(hidden)).status_code == 404
