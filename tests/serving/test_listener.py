"""A replica's own server: it takes what comes, ends what it is at, and waits for a port that is being left."""

from __future__ import annotations

import asyncio
import socket

import httpx
import pytest
from starlette.types import Receive, Scope, Send

from serving.errors import ServingError
from serving.listener import Listener


class Application:
    """Answers a request once it may."""

    def __init__(self) -> None:
        self.may = asyncio.Event()
        self.clients: list[str] = []
        self.cut = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self.clients.append(scope["client"][0])
        try:
            await self.may.wait()
        except asyncio.CancelledError:
            self.cut += 1
            raise
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"done"})


async def asked(listener: Listener, count: int = 1) -> list[asyncio.Task[str]]:
    """Requests that have been taken."""

    async def ask() -> str:
        async with httpx.AsyncClient(timeout=20) as client:
            answer = await client.get(f"http://{listener.address}/", headers={"x-forwarded-for": "192.0.2.7"})
            return answer.text

    tasks = [asyncio.create_task(ask()) for _ in range(count)]
    while listener.in_flight < count:
        await asyncio.sleep(0.01)
    return tasks


async def test_it_ends_what_it_is_at_and_takes_nothing_more() -> None:
    application = Application()
    listener = await Listener.start(application, "127.0.0.1")
    tasks = await asked(listener, 3)
    closing = asyncio.create_task(listener.close(20))
    await asyncio.sleep(0.3)
    with pytest.raises(httpx.ConnectError):
        httpx.get(f"http://{listener.address}/")
    assert listener.in_flight == 3 and not closing.done()
    application.may.set()
    assert await asyncio.gather(*tasks) == ["done"] * 3
    await closing
    assert listener.in_flight == 0
    # Who stands before it says for whom it asks.
    assert set(application.clients) == {"192.0.2.7"}


async def test_what_takes_too_long_is_cut_off() -> None:
    application = Application()
    listener = await Listener.start(application, "127.0.0.1")
    (task,) = await asked(listener)
    await asyncio.wait_for(listener.close(0.2), 10)
    with pytest.raises(httpx.RemoteProtocolError):
        await task


async def test_a_port_that_is_being_left_is_waited_for() -> None:
    application = Application()
    old = await Listener.start(application, "127.0.0.1")
    port = int(old.address.rpartition(":")[2])
    (task,) = await asked(old)
    starting = asyncio.create_task(Listener.start(application, "127.0.0.1", port))
    await asyncio.sleep(0.3)
    assert not starting.done()
    # It is free from when no more is taken, not only when all has ended.
    closing = asyncio.create_task(old.close(20))
    new = await asyncio.wait_for(starting, 10)
    application.may.set()
    assert await task == "done"
    await closing
    async with httpx.AsyncClient() as client:
        assert (await client.get(f"http://{new.address}/")).text == "done"
    await new.close(5)


async def test_a_port_that_stays_taken_is_told() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        with pytest.raises(ServingError, match=r"serving\.replica_port"):
            await Listener.start(Application(), "127.0.0.1", taken.getsockname()[1], patience_seconds=0.3)
