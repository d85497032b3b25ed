"""Bodies that come too slowly and answers that take too long, at a real socket."""

from __future__ import annotations

import asyncio
import json
import socket
from collections.abc import AsyncIterator

import httpx
import pytest

from registry.adapters import Adapter
from tests.serving.doors import House
from tests.serving.memory_engine import MemoryEngine
from tests.serving.sockets import listening

pytestmark = pytest.mark.slow


async def slowly(pause: float, pieces: int) -> AsyncIterator[bytes]:
    yield b'{"model": "cats", "prompt": "me'
    for _ in range(pieces):
        await asyncio.sleep(pause)
        yield b"o"
    yield b'w"}'


@pytest.mark.parametrize("path", ["/v1/completions", "/v1/records", "/v1/route", "/v1/domains/cats/pin"])
@pytest.mark.parametrize("sent", [b"", b"{"], ids=["nothing", "a part"])
async def test_a_body_that_does_not_come_in_time_is_told_so(house: House, path: str, sent: bytes) -> None:
    async with listening(house.app(required=False, body_seconds=0.3)) as url:
        reader, writer = await asyncio.open_connection(*url.removeprefix("http://").split(":"))
        writer.write(f"POST {path} HTTP/1.1\r\nhost: a\r\ncontent-length: 1000\r\n\r\n".encode() + sent)
        head, _, body = (await asyncio.wait_for(reader.read(), 10)).partition(b"\r\n\r\n")
        writer.close()
        assert head.startswith(b"HTTP/1.1 408") and b"connection: close" in head
        error = json.loads(body)["error"]
        assert (error["type"], error["code"]) == ("RequestTimeoutError", 408) and "0.3 s" in error["message"]
    assert house.notebook.records == [] and house.notebook.calls == []


async def test_one_byte_at_a_time_gains_nothing(house: House) -> None:
    async with listening(house.app(required=False, body_seconds=0.3)) as url:
        reader, writer = await asyncio.open_connection(*url.removeprefix("http://").split(":"))
        writer.write(b"POST /v1/route HTTP/1.1\r\nhost: a\r\ncontent-length: 1000\r\n\r\n")
        # No further than its first line: who goes on writing to a server that has hung up is cut off.
        answer = asyncio.create_task(reader.readline())
        while not answer.done():
            writer.write(b" ")
            await asyncio.sleep(0.05)
        assert (await answer).startswith(b"HTTP/1.1 408")
        writer.close()


async def test_a_body_that_takes_its_time_and_comes_is_answered(house: House, cast: dict[str, Adapter]) -> None:
    async with listening(house.app(required=False, body_seconds=5.0)) as url, httpx.AsyncClient(base_url=url) as client:
        answer = await client.post("/v1/completions", content=slowly(0.02, 10))
        assert answer.status_code == 200 and "meooooo" in answer.text


async def test_after_the_body_there_is_no_hurry(house: House, engine: MemoryEngine, cast: dict[str, Adapter]) -> None:
    async with listening(house.app(required=False, body_seconds=0.1)) as url, httpx.AsyncClient(base_url=url) as client:
        engine.gate.clear()
        asking = asyncio.create_task(client.post("/v1/completions", json={"model": "cats", "prompt": "x"}))
        await asyncio.sleep(0.4)
        engine.gate.set()
        assert (await asking).status_code == 200


async def test_an_answer_that_takes_too_long_is_ended(
    house: House, engine: MemoryEngine, cast: dict[str, Adapter]
) -> None:
    app = house.app(required=False, request_seconds=0.3)
    async with listening(app) as url, httpx.AsyncClient(base_url=url) as client:
        engine.gate.clear()
        answer = await client.post("/v1/completions", json={"model": "cats", "prompt": "x"})
        assert answer.status_code == 504 and answer.json()["error"]["type"] == "GatewayTimeoutError"
        engine.gate.set()
        assert (await client.post("/v1/completions", json={"model": "cats", "prompt": "x"})).status_code == 200
        assert 'anabranch_refusals_total{status="504"} 1.0' in (await client.get("/metrics")).text
    assert house.service.health().leases == 0 and engine.running == 0


async def test_a_stream_that_takes_too_long_ends_with_an_error(
    house: House, engine: MemoryEngine, cast: dict[str, Adapter]
) -> None:
    app = house.app(required=False, request_seconds=0.5)
    async with listening(app) as url, httpx.AsyncClient(base_url=url) as client:
        body = {"model": "cats", "prompt": "a b c", "stream": True}
        async with client.stream("POST", "/v1/completions", json=body) as answer:
            lines = answer.aiter_lines()
            told = [await anext(lines)]
            engine.gate.clear()
            told += [line async for line in lines]
    events = [line for line in told if line]
    assert json.loads(events[-1][6:])["error"]["code"] == 504 and "data: [DONE]" not in events
    assert house.service.health().leases == 0 and engine.running == 0


async def test_records_are_not_ended_in_the_middle(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    app = house.app(required=False, request_seconds=0.1)
    append = house.notebook.append_records

    async def slow(records: list[dict[str, object]]) -> list[str]:
        await asyncio.sleep(0.4)
        return await append(records)

    monkeypatch.setattr(house.notebook, "append_records", slow)
    async with listening(app) as url, httpx.AsyncClient(base_url=url) as client:
        answer = await client.post("/v1/records", json={"id": "1", "domain": "cats", "completion": "c"})
        assert answer.status_code == 202


async def test_too_large_a_body_is_told_so_with_a_key_too(house: House) -> None:
    async with listening(house.app()) as url, httpx.AsyncClient(base_url=url) as client:
        answer = await client.post("/v1/route", content=b" " * (3 << 20), headers=house.key("infer"))
        assert answer.status_code == 413 and answer.json()["error"]["type"] == "RequestEntityTooLargeError"


async def test_who_is_not_let_in_is_told_before_the_body_is_read(house: House) -> None:
    async with listening(house.app()) as url:
        host, port = url.removeprefix("http://").split(":")

        def ask() -> bytes:
            with socket.create_connection((host, int(port)), timeout=10) as plain:
                plain.sendall(b"POST /v1/records HTTP/1.1\r\nhost: a\r\ncontent-length: 30000000\r\n\r\n[")
                return plain.recv(1000)

        assert (await asyncio.to_thread(ask)).startswith(b"HTTP/1.1 401")
