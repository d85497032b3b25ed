"""The front door on Ray Serve through losses: its replicas are real but for the engine, and are killed for real."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import pytest
import ray
from ray import serve

from cluster import frontdoor, names
from cluster.actor_group import remote_of
from cluster.actor_host import AsyncActorHost
from cluster.frontdoor import application
from cluster.preflight import free_port
from cluster.runtime import _ENVIRONMENT, balancer
from configs.loader import load
from configs.settings import Settings
from tests.cluster.replicas import on_memory

pytestmark = [pytest.mark.ray, pytest.mark.timeout(240)]

CHAT = "/v1/chat/completions"
_STEADY = 5
"""Looks, a moment apart, at which the same replicas answer: Serve takes a moment to see to fewer."""


@dataclass
class Stand:
    """A running front door, whose replicas start once they may."""

    settings: Settings
    url: str
    directory: Any = None
    """Its handle: without one the actor would end."""
    meter: Any = None
    headers: dict[str, str] = field(default_factory=dict)
    """What clients send."""

    def start_directory(self) -> None:
        self.directory = self.start_actor(names.DIRECTORY)

    def start_actor(self, name: str) -> Any:
        """Start one that is named as what makes it; returns its handle, without which it would end."""
        options = {"name": name, "namespace": names.NAMESPACE, "num_cpus": 0, "max_concurrency": 100}
        made = remote_of(AsyncActorHost).options(**options).remote(f"cluster.control_actors:{name}", self.settings)
        ray.get(made.__ray_ready__.remote(), timeout=60)
        return made

    def may_start(self, they_may: bool = True) -> None:
        go = self.settings.home / "go"
        go.touch() if they_may else go.unlink(missing_ok=True)

    def scale(self, replicas: int) -> None:
        # As the autoscaler does it: others of the same, or fewer, and no new ones in the place of those that stay.
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(frontdoor, "_replicas", lambda serving: {"num_replicas": replicas})
            deployed: Any = application(self.settings, start=on_memory)
        # A version of its own would be another each time.
        deployed._bound_deployment._version = "1"
        target = serve.RunTarget(deployed, name=self.settings.name, route_prefix=None)
        serve.run_many([target], wait_for_applications_running=False)

    @asynccontextmanager
    async def client(self) -> AsyncIterator[httpx.AsyncClient]:
        limits = httpx.Limits(max_connections=None)
        async with httpx.AsyncClient(base_url=self.url, timeout=90, limits=limits, headers=self.headers) as client:
            yield client

    async def wait_for_replicas(self, count: int, timeout: float = 90) -> set[str]:
        """Wait until so many answer, the same for some time, and return their processes' numbers."""
        deadline = time.monotonic() + timeout
        found, times = set[str](), 0
        async with self.client() as client:
            while True:
                asked = [client.post(CHAT, json=question(0.1)) for _ in range(8)]
                before = found
                found = {answer.json()["id"] for answer in await asyncio.gather(*asked) if answer.status_code == 200}
                times = times + 1 if found == before else 1
                if len(found) == count and times >= _STEADY:
                    return found
                assert time.monotonic() < deadline, f"expected {count} replicas, {found} answer"
                await asyncio.sleep(0.3)


@pytest.fixture(scope="module")
def stand(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stand]:
    with standing(tmp_path_factory.mktemp("door")) as stand:
        yield stand


@contextmanager
def standing(home: Path, *sets: str) -> Iterator[Stand]:
    """A front door on a Ray of its own, with these settings."""
    for name, value in _ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    overrides = ["serving.port=0", "serving.replicas=2", "serving.num_cpus=0.1", "serving.finish_seconds=30", *sets]
    settings = load("demo", [f"home={home}", *overrides])
    port = free_port(settings)
    ray.init(
        address="local",  # Not one that somebody else has started on this machine.
        num_cpus=4,
        object_store_memory=100 << 20,
        include_dashboard=False,
        namespace=names.NAMESPACE,
        log_to_driver=bool(os.environ.get("ANABRANCH_LOG_TO_DRIVER")),
        logging_level="ERROR",
    )
    try:
        serve.start(proxy_location="Disabled")
        stand = Stand(settings, f"http://127.0.0.1:{port}")
        stand.start_directory()
        stand.scale(2)
        door = balancer(settings, port)
        door.start()
        try:
            yield stand
        finally:
            door.stop()
    finally:
        ray.shutdown()


def question(seconds: float, stream: bool = False, words: int = 1) -> dict[str, Any]:
    content = " ".join(["word"] * words)
    return {"messages": [{"role": "user", "content": content}], "seconds": seconds, "stream": stream}


@dataclass
class Load:
    """Clients that ask one question after another, and what came of each."""

    answered: int = 0
    whole: int = 0
    cut: int = 0
    """Streams that ended before their end, which their clients were told by HTTP."""
    wrong: list[str] = field(default_factory=list)
    ended: bool = False

    async def ask(self, client: httpx.AsyncClient) -> None:
        answer = await client.post(CHAT, json=question(0.3))
        if answer.status_code == 200:
            self.answered += 1
        else:
            self.wrong.append(f"{answer.status_code} {answer.text}")

    async def stream(self, client: httpx.AsyncClient) -> None:
        try:
            answer = await client.post(CHAT, json=question(0.1, stream=True, words=10))
        except httpx.RemoteProtocolError as error:
            assert "incomplete chunked read" in str(error), error
            self.cut += 1
            return
        if answer.status_code == 200 and answer.text.endswith("data: [DONE]\n\n"):
            self.whole += 1
        else:
            self.wrong.append(f"{answer.status_code} {answer.text}")

    async def repeat(self, ask: Callable[[httpx.AsyncClient], Awaitable[None]], client: httpx.AsyncClient) -> None:
        while not self.ended:
            try:
                await ask(client)
            except httpx.HTTPError as error:
                self.wrong.append(repr(error))
            await asyncio.sleep(0)


@asynccontextmanager
async def load_on(stand: Stand, asking: int = 8, streaming: int = 4) -> AsyncIterator[Load]:
    load = Load()
    async with stand.client() as client:
        asks = [load.ask] * asking + [load.stream] * streaming
        tasks = [asyncio.create_task(load.repeat(ask, client)) for ask in asks]
        try:
            yield load
        finally:
            load.ended = True
            await asyncio.gather(*tasks)


async def test_while_no_replica_has_started_every_path_says_so(stand: Stand) -> None:
    async with stand.client() as client:
        began = time.monotonic()
        answers = await asyncio.gather(
            client.post(CHAT, json=question(0)),
            client.post(CHAT, json=question(0, stream=True)),
            client.post("/v1/records", json={"domain": "d", "prompt": "p", "completion": "c"}),
            client.delete("/v1/domains/d"),
            client.get("/readyz"),
            client.get("/v1/models"),
        )
        assert time.monotonic() - began < 45
    for answer in answers:
        assert answer.status_code == answer.json()["error"]["code"] == 503, answer.text
        assert int(answer.headers["retry-after"]) > 0


async def test_a_replica_killed_under_load_costs_at_most_its_streams(stand: Stand) -> None:
    stand.may_start()
    victim = min(await stand.wait_for_replicas(2))
    async with load_on(stand) as load:
        await asyncio.sleep(2)
        os.kill(int(victim), signal.SIGKILL)
        await asyncio.sleep(2)
        after = await stand.wait_for_replicas(2)
    assert victim not in after
    assert load.wrong == []
    assert load.answered > 20 and load.whole > 4
    assert load.cut <= 4, "more than were in flight"


async def test_fewer_replicas_cost_nothing_and_streams_end(stand: Stand) -> None:
    stand.may_start()
    before = await stand.wait_for_replicas(2)
    async with stand.client() as client, load_on(stand, streaming=0) as load:
        long = []
        for _ in range(8):
            # One after another, as Serve deals them out by how many each replica has.
            long.append(asyncio.create_task(client.post(CHAT, json=question(0.5, stream=True, words=16))))
            await asyncio.sleep(0.1)
        stand.scale(1)
        answers = await asyncio.gather(*long)
        (left,) = await stand.wait_for_replicas(1)
    told_by = {json.loads(answer.text.split("\n\n")[1].removeprefix("data: "))["id"] for answer in answers}
    assert told_by == before, "the streams were on both"
    assert all(answer.text.endswith("data: [DONE]\n\n") for answer in answers)
    assert load.wrong == [] and load.answered > 20
    gone = before - {left}
    assert len(gone) == 1, "one that was to stay is gone"
    deadline = time.monotonic() + 30
    while any(os.path.exists(f"/proc/{each}") for each in gone) and time.monotonic() < deadline:
        await asyncio.sleep(0.2)
    assert gone and not [each for each in gone if os.path.exists(f"/proc/{each}")], "some are still there"


async def test_a_directory_that_is_away_costs_nothing(stand: Stand) -> None:
    stand.may_start()
    stand.scale(2)
    await stand.wait_for_replicas(2)
    async with load_on(stand) as load:
        ray.kill(stand.directory)
        await asyncio.sleep(20)
        await asyncio.to_thread(stand.start_directory)
        await asyncio.sleep(2)
    assert load.wrong == [] and load.cut == 0
    assert load.answered > 100 and load.whole > 20


async def test_the_last_replica_s_death_is_told_and_its_successor_answers(stand: Stand) -> None:
    stand.may_start()
    stand.scale(1)
    (victim,) = await stand.wait_for_replicas(1)
    async with stand.client() as client:
        asked = [asyncio.create_task(client.post(CHAT, json=question(5))) for _ in range(4)]
        streamed = asyncio.create_task(client.post(CHAT, json=question(1, stream=True, words=10)))
        await asyncio.sleep(1.5)
        stand.may_start(False)
        os.kill(int(victim), signal.SIGKILL)
        for answer in await asyncio.gather(*asked):
            assert answer.status_code == answer.json()["error"]["code"] == 503 and "retry-after" in answer.headers
        with pytest.raises(httpx.RemoteProtocolError):
            await streamed
    stand.may_start()
    assert await stand.wait_for_replicas(1) != {victim}
