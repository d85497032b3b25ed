"""HAProxy before replicas, as a client sees it: what becomes of a request of each thing that a replica may do."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Collection
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest

from serving.balancer import Balancer
from streaming.broker import free_port

pytestmark = pytest.mark.slow

CHAT = "/v1/chat/completions"
TOSSES = 40
"""Requests that go to any replica, until each has had some."""
FENCED = b'{"error": {"message": "fenced"}}'

Fate = Callable[["Replica", asyncio.StreamWriter], Awaitable[None]]


class Replica:
    """A server whose requests meet a fate; its health check meets none while it is `ready`."""

    def __init__(self, fate: Fate) -> None:
        self.fate, self.ready = fate, True
        self.heads: list[str] = []
        self.bodies: list[bytes] = []
        self.address = ""
        self.left = asyncio.Event()

    @asynccontextmanager
    async def listening(self) -> AsyncIterator[Replica]:
        server = await asyncio.start_server(self._serve, "127.0.0.1", 0, limit=16 << 20)
        self.address = "{}:{}".format(*server.sockets[0].getsockname())
        try:
            yield self
        finally:
            server.close()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while True:
                head = (await reader.readuntil(b"\r\n\r\n")).decode().lower()
                fields = dict(line.split(": ", 1) for line in head.splitlines()[1:-1])
                body = await reader.readexactly(int(fields.get("content-length", 0)))
                if head.startswith("get /readyz"):
                    await reply(writer, 200 if self.ready else 503)
                    continue
                self.heads.append(head)
                self.bodies.append(body)
                await self.fate(self, writer)
        except (asyncio.IncompleteReadError, ConnectionError):
            self.left.set()
        finally:
            writer.close()


async def reply(writer: asyncio.StreamWriter, status: int, body: bytes = b"{}", more: str = "") -> None:
    told = f"HTTP/1.1 {status} X\r\ncontent-type: application/json\r\n{more}content-length: {len(body)}\r\n\r\n"
    writer.write(told.encode() + body)
    await writer.drain()


async def answers(replica: Replica, writer: asyncio.StreamWriter) -> None:
    await reply(writer, 200, b'{"fine": true}')


async def dies(replica: Replica, writer: asyncio.StreamWriter) -> None:
    writer.transport.abort()


async def is_fenced(replica: Replica, writer: asyncio.StreamWriter) -> None:
    await reply(writer, 503, FENCED, "retry-after: 1\r\n")


async def dies_within_a_stream(replica: Replica, writer: asyncio.StreamWriter) -> None:
    head = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"
    writer.write(head + b"f\r\ndata: {}......\n\r\n")
    await writer.drain()
    await asyncio.sleep(0.2)
    writer.transport.abort()


async def takes_long(replica: Replica, writer: asyncio.StreamWriter) -> None:
    """What comes next, if anything, is that the client has left."""


class Door:
    """A balancer before replicas, and clients of it."""

    def __init__(self) -> None:
        port = free_port()
        self.url = f"http://127.0.0.1:{port}"
        self.addresses: Collection[str] | None = ()
        self.balancer = Balancer("127.0.0.1", port, self._told, most=4, body_seconds=1.0)

    def _told(self) -> Collection[str]:
        if self.addresses is None:
            raise RuntimeError("the directory is away")
        return self.addresses

    async def request(self, path: str, method: str = "POST", **more: Any) -> httpx.Response:
        async with httpx.AsyncClient(base_url=self.url, timeout=20) as client:
            return await client.request(method, path, **more)

    async def until(self, status: int, path: str = "/readyz") -> None:
        deadline = time.monotonic() + 15
        while (got := (await self.request(path, "GET")).status_code) != status:
            assert time.monotonic() < deadline, f"expected {status}, got {got}"
            await asyncio.sleep(0.05)


@asynccontextmanager
async def door_to(*fates: Fate) -> AsyncIterator[tuple[Door, list[Replica]]]:
    door = Door()
    async with AsyncExitStack() as stack:
        replicas = [await stack.enter_async_context(Replica(fate).listening()) for fate in fates]
        door.addresses = [replica.address for replica in replicas]
        await asyncio.to_thread(door.balancer.start)
        try:
            if replicas:
                await door.until(200)
            deadline = time.monotonic() + 15
            while sum(answers for _, answers in door.balancer._slots().values()) < len(replicas):
                assert time.monotonic() < deadline, "not all replicas are known to answer"
                await asyncio.sleep(0.05)
            yield door, replicas
        finally:
            await asyncio.to_thread(door.balancer.stop)


def error(answer: httpx.Response) -> dict[str, Any]:
    assert answer.headers["content-type"] == "application/json"
    found: dict[str, Any] = answer.json()["error"]
    assert found["message"] and found["code"] == answer.status_code and found["param"] is None
    return found


def tries(replicas: list[Replica]) -> int:
    return sum(len(replica.heads) for replica in replicas)


@pytest.mark.parametrize("fate", [dies, is_fenced])
@pytest.mark.parametrize("path", [CHAT, "/v1/completions", "/v1/route"])
async def test_what_may_be_done_twice_is_tried_elsewhere_with_the_whole_body(fate: Fate, path: str) -> None:
    content = b"x" * 60_000
    async with door_to(fate, answers) as (door, replicas):
        told = [await door.request(path, content=content) for _ in range(TOSSES)]
    assert [answer.json() for answer in told] == [{"fine": True}] * TOSSES
    assert replicas[0].bodies, "none came to the one that does not answer"
    assert {body for replica in replicas for body in replica.bodies} == {content}


async def test_a_question_is_asked_elsewhere_too() -> None:
    async with door_to(dies, answers) as (door, replicas):
        told = [await door.request("/v1/status", "GET") for _ in range(TOSSES)]
    assert [answer.status_code for answer in told] == [200] * TOSSES
    assert replicas[0].heads


async def test_it_is_tried_twice_more_and_then_told() -> None:
    async with door_to(dies) as (door, replicas):
        answer = await door.request(CHAT, json={})
    assert (answer.status_code, tries(replicas)) == (503, 3)
    assert "lost" in error(answer)["message"] and int(answer.headers["retry-after"]) > 0
    assert error(answer)["type"] == "ServiceUnavailableError"


async def test_a_replica_that_refuses_has_the_last_word_where_all_do() -> None:
    async with door_to(is_fenced, is_fenced) as (door, replicas):
        answer = await door.request(CHAT, json={})
    assert (answer.status_code, answer.content, answer.headers["retry-after"]) == (503, FENCED, "1")
    assert tries(replicas) == 3


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
    async with door_to(dies, dies) as (door, replicas):
        answer = await door.request(path, method, content=b"x")
    assert (answer.status_code, tries(replicas)) == (status, 1)
    assert error(answer)
    # Who is told to come again may: an example counts once, a rollback would go back twice.
    assert ("retry-after" in answer.headers) == (status == 503)


async def test_a_body_too_large_to_be_kept_is_passed_on_and_not_tried_again() -> None:
    content = b"x" * (1 << 20)
    async with door_to(answers) as (door, replicas):
        assert (await door.request(CHAT, content=content)).status_code == 200
        replicas[0].fate = dies
        assert (await door.request(CHAT, content=content)).status_code == 503
    assert replicas[0].bodies == [content] * 2


async def test_a_body_that_does_not_come_is_told_so_and_keeps_no_replica_waiting() -> None:
    async with door_to(answers) as (door, replicas):
        reader, writer = await asyncio.open_connection(*door.url.removeprefix("http://").split(":"))
        writer.write(f"POST {CHAT} HTTP/1.1\r\nhost: a\r\ncontent-length: 100\r\n\r\n{{".encode())
        answer = await asyncio.wait_for(reader.read(), 20)
        writer.close()
    head, _, body = answer.partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 408") and json.loads(body)["error"]["type"] == "RequestTimeoutError"
    assert replicas[0].bodies == []


async def test_a_stream_that_is_cut_ends_as_one() -> None:
    async with door_to(dies_within_a_stream, dies_within_a_stream) as (door, replicas):
        with pytest.raises(httpx.RemoteProtocolError, match="incomplete chunked read"):
            await door.request(CHAT, json={"stream": True})
    assert tries(replicas) == 1


@pytest.mark.parametrize(("method", "path"), [("POST", CHAT), ("GET", "/readyz"), ("DELETE", "/v1/domains/x")])
async def test_without_a_replica_there_is_an_answer(method: str, path: str) -> None:
    async with door_to() as (door, _):
        answer = await door.request(path, method, content=b"{}")
    assert answer.status_code == 503 and int(answer.headers["retry-after"]) > 0
    assert error(answer)["type"] == "ServiceUnavailableError"


async def test_one_that_leaves_gets_nothing_new_and_one_that_comes_does() -> None:
    async with door_to(answers) as (door, (old,)), Replica(answers).listening() as new:
        old.ready = False
        await door.until(503, "/v1/models")
        door.addresses = [old.address, new.address]
        await door.until(200)
        before = len(old.heads)
        assert (await door.request(CHAT, json={})).status_code == 200
        assert len(old.heads) == before and len(new.heads) == 1
        # A slot of one that has gone is another's: there are more of them in time than slots.
        for _ in range(20):
            door.addresses = [new.address, f"127.0.0.1:{free_port()}"]
            await asyncio.sleep(0)
        assert (await door.request(CHAT, json={})).status_code == 200


async def test_who_leaves_is_worked_for_no_longer_and_not_asked_for_again() -> None:
    async with door_to(takes_long, takes_long) as (door, replicas):
        with pytest.raises(httpx.ReadTimeout):
            async with httpx.AsyncClient(base_url=door.url, timeout=0.5) as client:
                await client.post(CHAT, json={})
        (asked,) = [replica for replica in replicas if replica.heads]
        await asyncio.wait_for(asked.left.wait(), 5)
        await asyncio.sleep(0.3)
        assert tries(replicas) == 1


async def test_who_is_cut_off_from_the_directory_serves_on_and_says_so_once(caplog: pytest.LogCaptureFixture) -> None:
    async with door_to(answers) as (door, _):
        for addresses in (None, ()):
            door.addresses = addresses
            await asyncio.sleep(1.5)
            assert (await door.request(CHAT, json={})).status_code == 200
    told = [record.getMessage() for record in caplog.records if record.name == "serving.balancer"]
    assert [line for line in told if "directory is away" in line] == told[:1]
    assert told[1:] == ["HAProxy is told of replicas again"]


async def test_a_directory_that_is_not_there_yet_is_no_trouble(caplog: pytest.LogCaptureFixture) -> None:
    door = Door()
    door.addresses = None
    async with Replica(answers).listening() as replica:
        await asyncio.to_thread(door.balancer.start)
        try:
            await asyncio.sleep(1.2)
            assert not caplog.records
            door.addresses = [replica.address]
            await door.until(200)
            door.addresses = None
            await asyncio.sleep(1.2)
            assert [record.levelname for record in caplog.records] == ["WARNING"]
        finally:
            await asyncio.to_thread(door.balancer.stop)


async def test_it_is_started_again_with_the_replicas_that_there_are() -> None:
    async with door_to(answers) as (door, _):
        (process,) = [each for each in psutil.Process().children() if "haproxy" in each.name()]
        process.kill()
        await asyncio.to_thread(process.wait, 10)
        deadline = time.monotonic() + 15
        while True:
            try:
                await door.until(200)
                break
            except httpx.ConnectError:
                assert time.monotonic() < deadline
                await asyncio.sleep(0.1)


async def test_a_client_can_t_say_that_it_is_another() -> None:
    async with door_to(answers) as (door, (replica,)):
        await door.request(CHAT, headers={"x-forwarded-for": "192.0.2.7", "x-forwarded-proto": "https"})
    assert "x-forwarded-for: 127.0.0.1\r\n" in replica.heads[0] and "192.0.2.7" not in replica.heads[0]
    assert "x-forwarded-proto" not in replica.heads[0]


def test_it_ends_with_its_owner(repository: Path) -> None:
    # A short name, as sockets' names are bounded.
    folder_of_all = Path(tempfile.mkdtemp())
    script = (
        "import time\nfrom serving.balancer import Balancer\n"
        f"balancer = Balancer('127.0.0.1', {free_port()}, list, most=1)\nbalancer.start()\nprint('up', flush=True)\n"
        "time.sleep(60)"
    )
    environment = {**os.environ, "TMPDIR": str(folder_of_all)}
    owner = subprocess.Popen([sys.executable, "-c", script], cwd=repository, stdout=subprocess.PIPE, env=environment)
    try:
        assert owner.stdout is not None and owner.stdout.readline() == b"up\n"
        (process,) = psutil.Process(owner.pid).children()
        (folder,) = folder_of_all.iterdir()
        assert folder.stat().st_mode & 0o077 == 0, "its sockets are for its owner only"
        owner.send_signal(signal.SIGKILL)
        process.wait(10)
    finally:
        owner.kill()
        owner.wait(10)
        shutil.rmtree(folder_of_all)
