"""What changes is told as it changes: over a real socket, to several at once, and whatever fails behind it."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import aclosing, asynccontextmanager
from typing import Any

import httpx
import pytest

from registry.manifest import BaseRevision
from serving import events
from serving.api import ActorStatus, DomainStatus, SystemStatus, Waiting
from serving.errors import ControlUnavailable
from serving.events import StatusStream
from serving.frontdoor import build_app
from serving.service import RoutedService
from tests.serving.conftest import Notebook
from tests.serving.doors import House
from tests.serving.sockets import listening


@pytest.fixture(autouse=True)
def fast(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(events, "_LOOK_S", 0.01)
    monkeypatch.setattr(events, "_REST_S", 0.02)


class World:
    """A system whose state the test sets; `asked` counts."""

    def __init__(self) -> None:
        self.state: SystemStatus | Exception = state()
        self.asked = 0
        self.leaving = False

    async def status(self) -> SystemStatus:
        self.asked += 1
        if isinstance(self.state, Exception):
            raise self.state
        return self.state

    def watch(self) -> StatusStream:
        return StatusStream(self.status, lambda: self.leaving)


def domain(name: str, examples: int = 1) -> DomainStatus:
    return DomainStatus(
        domain=name, state="open", version=None, examples=examples, router_rows=0, waiting=Waiting(train=1)
    )


def state(*domains: DomainStatus, manifest: int = 1, up: float = 0.0) -> SystemStatus:
    actors = (ActorStatus(name="router", up_seconds=up, progress_seconds=up, state="up"),)
    return SystemStatus(
        manifest=manifest, base=BaseRevision(model="m"), domains=domains, ingest=(), replicas={}, actors=actors
    )


class Told:
    """What one who looks on is told, as a page would keep it."""

    def __init__(self, told: AsyncIterator[str]) -> None:
        self._told = told
        self.domains: dict[str, Any] = {}

    async def next(self) -> tuple[str, Any]:
        async with asyncio.timeout(5):
            text = await anext(self._told)
        if text.startswith(":"):
            return "comment", text
        kind, data = text.removesuffix("\n\n").split("\n", 1)
        body = json.loads(data.removeprefix("data: "))
        if kind == "event: domains":
            self.domains.update({each["domain"]: each for each in body["domains"]})
            for name in body["gone"]:
                del self.domains[name]
        return kind.removeprefix("event: "), body


@asynccontextmanager
async def looking(watch: StatusStream) -> AsyncIterator[Told]:
    async with aclosing(watch.events()) as told:
        yield Told(told)


async def test_only_what_has_changed_is_told() -> None:
    world = World()
    world.state = state(domain("a"), domain("b"))
    async with looking(world.watch()) as told:
        assert (await told.next())[0] == "domains"
        kind, system = await told.next()
        assert (kind, system["manifest"], system["domains"]) == ("system", 1, [])
        assert set(told.domains) == {"a", "b"}

        world.state = state(domain("a"), domain("b", 7), domain("c"))
        kind, body = await told.next()
        assert ([each["domain"] for each in body["domains"]], body["gone"]) == (["b", "c"], [])
        world.state = state(domain("c"), manifest=2)
        assert (await told.next())[1] == {"domains": [], "gone": ["a", "b"]}
        assert (await told.next())[1]["manifest"] == 2
        assert set(told.domains) == {"c"}


async def test_that_time_goes_by_is_no_news(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(events, "_SILENCE_S", 0.2)
    world = World()
    async with looking(world.watch()) as told:
        assert [(await told.next())[0] for _ in range(2)] == ["domains", "system"]
        world.state = state(up=5.0)
        assert (await told.next())[0] == "comment"
        world.state = state(up=6.0, manifest=3)
        assert (await told.next())[1]["actors"][0]["up_seconds"] == 6.0


@pytest.mark.parametrize(
    ("error", "words"),
    [(ControlUnavailable("the coordinator is away"), "the coordinator is away"), (KeyError("/a/b"), "log tells why")],
)
async def test_trouble_is_told_once_and_ended_by_what_comes_then(error: Exception, words: str) -> None:
    world = World()
    world.state = error
    async with looking(world.watch()) as told:
        kind, body = await told.next()
        assert kind == "trouble" and words in body["message"] and "/a/b" not in body["message"]
        world.state = state(domain("a"))
        assert [(await told.next())[0] for _ in range(2)] == ["domains", "system"]
        world.state = error
        assert (await told.next())[0] == "trouble"
        # The same as before the trouble: what ends it has to be told all the same.
        world.state = state(domain("a"))
        assert (await told.next())[0] in ("system", "domains")


async def test_however_many_look_on_the_system_is_asked_once_and_nobody_when_none_does() -> None:
    world = World()
    watch = world.watch()
    async with looking(watch) as one, looking(watch) as other:
        for told in (one, other):
            assert [(await told.next())[0] for _ in range(2)] == ["domains", "system"]
        assert watch.watchers == 2
        before = world.asked
        await asyncio.sleep(0.3)
        assert world.asked - before <= 40
    assert watch.watchers == 0
    await asyncio.sleep(0.05)
    before = world.asked
    await asyncio.sleep(0.1)
    assert world.asked == before
    # Whoever comes then is told what is, not what was.
    world.state = state(domain("new"))
    async with looking(watch) as told:
        await told.next()
        assert set(told.domains) == {"new"}


async def test_a_replica_that_leaves_ends_the_streams() -> None:
    world = World()
    async with looking(world.watch()) as told:
        await told.next()
        world.leaving = True
        with pytest.raises(StopAsyncIteration):
            for _ in range(3):
                await told.next()


async def test_over_a_socket_and_the_look_ends_with_the_connection(service: RoutedService, notebook: Notebook) -> None:
    app = build_app(service, notebook)
    async with listening(app) as url, httpx.AsyncClient(base_url=url, timeout=10) as client:
        async with client.stream("GET", "/v1/events") as answer:
            assert answer.headers["content-type"].startswith("text/event-stream")
            lines = answer.aiter_lines()
            assert await anext(lines) == "event: domains"
            assert {each["domain"] for each in json.loads((await anext(lines))[6:])["domains"]} == {"cats", "dogs"}
            assert app.state.watch.watchers == 1
        async with asyncio.timeout(5):
            while app.state.watch.watchers:
                await asyncio.sleep(0.01)


async def test_with_keys_it_is_for_administrators(house: House) -> None:
    async with listening(house.app()) as url, httpx.AsyncClient(base_url=url) as client:
        assert (await client.get("/v1/events")).status_code == 401
        assert (await client.get("/v1/events", headers=house.key("infer"))).status_code == 403
        assert (await client.get("/v1/events", headers=house.key("admin", domains=("cats",)))).status_code == 403
        async with client.stream("GET", "/v1/events", headers=house.key("admin")) as answer:
            assert answer.status_code == 200
