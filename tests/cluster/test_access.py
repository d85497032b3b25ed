"""Keys through Serve's proxy and two replicas: one meter counts for both, and none of them needs it to answer."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator

import httpx
import pytest
import ray

from cluster import builders, names
from registry.keys import AccessKey, Grant, KeyStore
from tests.cluster.test_frontdoor import CHAT, Stand, question, standing

pytestmark = [pytest.mark.ray, pytest.mark.timeout(240)]


@pytest.fixture(scope="module")
def stand(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stand]:
    with standing(
        tmp_path_factory.mktemp("keys"), "serving.access.keys=required", "serving.access.body_seconds=1"
    ) as stand:
        stand.meter = stand.start_actor(names.METER)
        _, stand.headers = made(stand)
        stand.may_start()
        yield stand


def made(stand: Stand, **changes: int) -> tuple[AccessKey, dict[str, str]]:
    grant = Grant(name="a", scopes=("infer", "admin"), **changes)
    key, text = KeyStore(builders.registry(stand.settings).storage).create(grant)
    return key, {"authorization": f"Bearer {text}"}


async def asked_in_sessions(client: httpx.AsyncClient, count: int, headers: dict[str, str]) -> list[httpx.Response]:
    """The answers to one question, asked in as many sessions: a model, or a session, keeps its replica."""
    sessions = ({**headers, "x-anabranch-session": f"session-{place}"} for place in range(count))
    return await asyncio.gather(*(client.post(CHAT, json=question(0), headers=each) for each in sessions))


async def test_replicas_share_a_quota_and_go_on_without_the_meter(stand: Stand) -> None:
    await stand.wait_for_replicas(2)
    async with httpx.AsyncClient(base_url=stand.url, timeout=60) as client:
        assert (await client.post(CHAT, json=question(0))).status_code == 401
        assert (await client.get("/readyz")).status_code == 200

        _, mine = made(stand, requests_per_minute=40)
        # Known by every replica after five seconds: until then one that has not read it says 401, and counts nothing.
        await asyncio.sleep(5.5)
        answers = await asked_in_sessions(client, 100, mine)
        statuses = [answer.status_code for answer in answers]
        assert (statuses.count(200), statuses.count(429)) == (40, 60)
        assert len({answer.json()["id"] for answer in answers if answer.status_code == 200}) == 2

        ray.kill(stand.meter)
        _, other = made(stand, requests_per_minute=10)
        await asyncio.sleep(5.5)
        answers = await asked_in_sessions(client, 60, other)
        statuses = [answer.status_code for answer in answers]
        # Each of the two by itself.
        assert 10 < statuses.count(200) <= 20 and statuses.count(200) + statuses.count(429) == 60
        told = (await client.get("/readyz", headers=stand.headers)).json()["trouble"]
        assert "counts quotas by itself" in told

        stand.meter = await asyncio.to_thread(stand.start_actor, names.METER)
        await asyncio.sleep(3.0)
        assert {answer.status_code for answer in await asked_in_sessions(client, 8, other)} == {429}


async def test_a_body_that_comes_slowly_is_ended_behind_the_proxy_too(stand: Stand) -> None:
    await stand.wait_for_replicas(2)
    host, port = stand.url.removeprefix("http://").split(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    head = f"POST {CHAT} HTTP/1.1\r\nhost: a\r\ncontent-length: 1000\r\nauthorization: {stand.headers['authorization']}"
    writer.write(f"{head}\r\n\r\n{{".encode())
    began = time.monotonic()
    answer = await asyncio.wait_for(reader.read(4096), 60)
    assert answer.startswith(b"HTTP/1.1 408"), answer
    assert time.monotonic() - began < 30
    writer.close()
