"""The gateway around a proxy: what a client gets of each thing that can become of a request behind it."""

from __future__ import annotations

import asyncio
import json
import socket
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from typing import Any

import httpx
import pytest
import uvicorn
from starlette.types import Receive, Scope, Send

from serving import gateway
from serving.gateway import ELSEWHERE, TAKEN, Gateway

CHAT = "/v1/chat/completions"
JSON = [(b"content-type", b"application/json")]
EVENTS = [(b"content-type", b"text/event-stream")]

Fate = Callable[[Scope, Receive, Send], Any]


class Proxy:
    """Serve's proxy as the gateway sees it: each try meets the next of the `fates`, the last one ever again."""

    def __init__(self, *fates: Fate) -> None:
        self.fates = fates
        self.tries = 0
        self.bodies: list[bytes] = []

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self.tries += 1
        fate = self.fates[min(self.tries, len(self.fates)) - 1]
        # As the proxy does: it reads beside, until the client leaves, which ends the try, as a cancellation does.
        whole = asyncio.Event()

        async def work() -> None:
            await whole.wait()
            await fate(scope, receive, send)

        tasks = [asyncio.create_task(work()), asyncio.create_task(self._read(receive, whole))]
        try:
            await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        except asyncio.CancelledError:
            pass
        finally:
            for task in tasks:
                task.cancel()

    async def _read(self, receive: Receive, whole: asyncio.Event) -> None:
        body = b""
        while (message := await receive())["type"] != "http.disconnect":
            body += message["body"]
            if not message.get("more_body"):
                self.bodies.append(body)
                whole.set()


async def takes(send: Send) -> None:
    await asyncio.sleep(0.02)
    await send({"type": TAKEN})


async def answers(scope: Scope, receive: Receive, send: Send) -> None:
    assert TAKEN in scope["extensions"]
    await takes(send)
    await send({"type": "http.response.start", "status": 200, "headers": JSON})
    await send({"type": "http.response.body", "body": b'{"fine": true}'})


async def dies(scope: Scope, receive: Receive, send: Send) -> None:
    await takes(send)


async def dies_before_a_byte(scope: Scope, receive: Receive, send: Send) -> None:
    await takes(send)
    await send({"type": "http.response.start", "status": 200, "headers": EVENTS})
    await send({"type": "http.response.body", "body": b"", "more_body": True})


async def dies_within_a_stream(scope: Scope, receive: Receive, send: Send) -> None:
    await dies_before_a_byte(scope, receive, send)
    await send({"type": "http.response.body", "body": b'data: {"n": 1}\n\n', "more_body": True})


async def is_fenced(scope: Scope, receive: Receive, send: Send) -> None:
    await takes(send)
    headers = [*JSON, (b"retry-after", b"1"), (ELSEWHERE.encode(), b"1")]
    await send({"type": "http.response.start", "status": 503, "headers": headers})
    await send({"type": "http.response.body", "body": b'{"error": {"message": "fenced"}}'})


async def is_nowhere(scope: Scope, receive: Receive, send: Send) -> None:
    await asyncio.sleep(60)


def page(status: int) -> Fate:
    async def answer(scope: Scope, receive: Receive, send: Send) -> None:
        headers = [(b"content-type", b"text/plain; charset=utf-8")]
        await send({"type": "http.response.start", "status": status, "headers": headers})
        await send({"type": "http.response.body", "body": b"Path '/' not found."})

    return answer


@pytest.fixture(autouse=True)
def _short(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    for name, value in (("_PAUSES", (0.01, 0.02)), ("_PATIENCE_S", 0.4), ("_SHORT_S", 0.1), ("_LONGEST_S", 3.0)):
        monkeypatch.setattr(gateway, name, value)
    yield


@asynccontextmanager
async def client_of(proxy: Proxy) -> AsyncIterator[httpx.AsyncClient]:
    """A client of the gateway over a real socket: who is cut off there gets no answer that a transport made up."""
    config = uvicorn.Config(Gateway(proxy), log_level="critical", lifespan="off")
    server = uvicorn.Server(config)
    listening = socket.socket()
    listening.bind(("127.0.0.1", 0))
    serving = asyncio.create_task(server.serve([listening]))
    try:
        async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{listening.getsockname()[1]}", timeout=20) as client:
            yield client
    finally:
        server.should_exit = True
        await serving


def error(answer: httpx.Response) -> dict[str, Any]:
    assert answer.headers["content-type"].startswith("application/json")
    found = answer.json()["error"]
    assert found["message"] and "\n" not in found["message"]
    assert found["code"] == answer.status_code
    return found


@pytest.mark.parametrize("fate", [dies, dies_before_a_byte, is_fenced])
@pytest.mark.parametrize("path", [CHAT, "/v1/completions", "/v1/route"])
async def test_what_may_be_done_twice_is_tried_elsewhere_with_the_whole_body(fate: Fate, path: str) -> None:
    proxy, content = Proxy(fate, fate, answers), b"x" * 100_000
    async with client_of(proxy) as client:
        answer = await client.post(path, content=content)
    assert (answer.status_code, answer.json(), proxy.tries) == (200, {"fine": True}, 3)
    assert proxy.bodies == [content] * 3


async def test_a_question_is_asked_elsewhere_too() -> None:
    proxy = Proxy(dies, answers)
    async with client_of(proxy) as client:
        assert (await client.get("/v1/status")).status_code == 200


async def test_it_is_tried_twice_more_and_then_told() -> None:
    proxy = Proxy(dies)
    async with client_of(proxy) as client:
        answer = await client.post(CHAT, json={})
    assert (answer.status_code, proxy.tries) == (503, 3)
    assert "lost" in error(answer)["message"] and int(answer.headers["retry-after"]) > 0


async def test_a_replica_that_refuses_has_the_last_word_where_all_do() -> None:
    proxy = Proxy(is_fenced)
    async with client_of(proxy) as client:
        answer = await client.post(CHAT, json={})
    assert (answer.status_code, proxy.tries) == (503, 3)
    assert answer.json() == {"error": {"message": "fenced"}} and "retry-after" in answer.headers


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("POST", "/v1/records", 503),
        ("POST", "/v1/domains/x/rollback", 502),
        ("DELETE", "/v1/domains/x", 502),
        ("POST", "/v1/anything/new", 502),
    ],
)
async def test_what_is_not_to_be_done_twice_is_tried_once(method: str, path: str, status: int) -> None:
    proxy = Proxy(dies, answers)
    async with client_of(proxy) as client:
        answer = await client.request(method, path, content=b"x")
    assert (answer.status_code, proxy.tries) == (status, 1)
    assert error(answer)
    # Who is told to come again may: an example counts once, a rollback would go back twice.
    assert ("retry-after" in answer.headers) == (status == 503)


async def test_a_body_too_large_to_be_kept_is_passed_on_and_not_tried_again() -> None:
    proxy, content = Proxy(dies), b"x" * (5 << 20)
    async with client_of(proxy) as client:
        assert (await client.post(CHAT, content=content)).status_code == 503
    assert proxy.bodies == [content]


async def test_a_stream_that_is_cut_ends_with_an_error_event() -> None:
    proxy = Proxy(dies_within_a_stream, answers)
    async with client_of(proxy) as client:
        answer = await client.post(CHAT, json={"stream": True})
    first, last, rest = answer.text.split("\n\n")
    assert (answer.status_code, proxy.tries, first, rest) == (200, 1, 'data: {"n": 1}', "")
    assert json.loads(last.removeprefix("data: "))["error"]["type"] == "ServiceUnavailableError"


@pytest.mark.parametrize("status", [404, 408, 429, 500, 503])
async def test_a_page_of_serve_s_becomes_an_error_in_openai_s_form(status: int) -> None:
    proxy = Proxy(page(status))
    async with client_of(proxy) as client:
        answer = await client.post(CHAT, json={})
    assert (answer.status_code, proxy.tries) == (503, 1)
    assert error(answer)["type"] == "ServiceUnavailableError" and "retry-after" in answer.headers


@pytest.mark.parametrize("path", ["/-/healthz", "/-/routes"])
async def test_serve_s_own_paths_are_left_alone(path: str) -> None:
    async with client_of(Proxy(page(503))) as client:
        answer = await client.get(path)
    assert (answer.status_code, answer.text) == (503, "Path '/' not found.")


async def test_without_a_replica_there_is_an_answer_and_soon_the_next() -> None:
    proxy = Proxy(is_nowhere, is_nowhere, answers)
    loop = asyncio.get_running_loop()
    async with client_of(proxy) as client:
        began = loop.time()
        first = await client.post("/v1/records", content=b"x")
        between = loop.time()
        second = await client.post(CHAT, json={})
        ended = loop.time()
        assert first.status_code == second.status_code == 503
        assert error(first) and error(second) and "retry-after" in first.headers
        assert 0.4 <= between - began < 3 and 0.1 <= ended - between < 3
        assert (await client.post(CHAT, json={})).status_code == 200


async def test_where_the_replicas_are_only_busy_it_is_waited_for_longer() -> None:
    free = asyncio.Event()

    async def is_long(scope: Scope, receive: Receive, send: Send) -> None:
        await takes(send)
        await free.wait()
        await send({"type": "http.response.start", "status": 200, "headers": JSON})
        await send({"type": "http.response.body", "body": b"{}"})

    async def waits(scope: Scope, receive: Receive, send: Send) -> None:
        await free.wait()
        await answers(scope, receive, send)

    async with client_of(Proxy(is_long, waits)) as client:
        busy = asyncio.create_task(client.post(CHAT, json={}))
        await asyncio.sleep(0.1)
        waiting = asyncio.create_task(client.post(CHAT, json={}))
        await asyncio.sleep(0.8)
        assert not waiting.done(), "it was given up after the patience for no replica at all"
        free.set()
        assert (await busy).status_code == (await waiting).status_code == 200


async def test_what_is_busy_for_too_long_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gateway, "_LONGEST_S", 0.6)

    async def is_endless(scope: Scope, receive: Receive, send: Send) -> None:
        await takes(send)
        await asyncio.sleep(60)

    async with client_of(Proxy(is_endless, is_nowhere)) as client:
        busy = asyncio.create_task(client.post(CHAT, json={}))
        await asyncio.sleep(0.1)
        assert (await client.post(CHAT, json={})).status_code == 503
        assert not busy.done()
        busy.cancel()


async def test_who_leaves_is_not_asked_for_again() -> None:
    left = asyncio.Event()

    async def until_it_leaves(scope: Scope, receive: Receive, send: Send) -> None:
        await takes(send)
        try:
            await asyncio.sleep(60)
        finally:
            left.set()

    proxy = Proxy(until_it_leaves)
    async with client_of(proxy) as client:
        with pytest.raises(httpx.ReadTimeout):
            await client.post(CHAT, json={}, timeout=0.3)
        await asyncio.wait_for(left.wait(), 5)
        await asyncio.sleep(0.2)
    assert proxy.tries == 1
