"""Which replica a request goes to: the same one for the same model, unless that has more than its share."""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from typing import Any

import httpx
import pytest

from tests.serving.test_balancer import (
    CHAT,
    Door,
    Fate,
    Replica,
    answers,
    dies,
    door_to,
    is_fenced,
    takes_long,
    tries,
)

pytestmark = pytest.mark.slow

MODELS = [f"domain-{at}" for at in range(48)]


async def places(door: Door, replicas: list[Replica], bodies: list[Any], **more: Any) -> list[int]:
    """Where each of these went; whatever it is, it is answered."""
    found = []
    async with httpx.AsyncClient(base_url=door.url, timeout=20) as client:
        for body in bodies:
            before = [len(replica.heads) for replica in replicas]
            content = body if isinstance(body, bytes) else json.dumps(body).encode()
            assert (await client.post(CHAT, content=content, **more)).status_code == 200
            (place,) = [at for at, replica in enumerate(replicas) if len(replica.heads) > before[at]]
            found.append(place)
    return found


async def test_a_model_goes_to_one_replica_and_models_to_all() -> None:
    async with door_to(answers, answers, answers) as (door, replicas):
        asked = [{"model": model, "messages": []} for model in MODELS]
        first = await places(door, replicas, asked)
        assert await places(door, replicas, asked) == first
        assert min(Counter(first)[at] for at in range(3)) >= len(MODELS) // 8
        other_path = [replica.heads for replica in replicas]
        async with httpx.AsyncClient(base_url=door.url) as client:
            await client.post("/v1/completions", json={"prompt": "x" * 1000, "model": MODELS[0]})
        assert other_path[first[0]][-1].startswith("post /v1/completions")


async def test_a_session_keeps_its_replica_whatever_it_asks_for() -> None:
    async with door_to(answers, answers, answers) as (door, replicas):
        asked = [{"model": model} for model in ("auto", "base", *MODELS[:10])]
        for session in "abcd":
            found = await places(door, replicas, asked, headers={"x-anabranch-session": session})
            assert len(set(found)) == 1


@pytest.mark.parametrize(
    "body",
    [
        {"model": "auto"},
        {"model": "base"},
        {},
        b"",
        b"not json",
        b"[" * 5000,
        b'{"model"',
        {"messages": "x" * 100_000, "model": MODELS[0]},
    ],
    ids=str,
)
async def test_what_names_no_model_goes_anywhere(body: Any) -> None:
    async with door_to(answers, answers) as (door, replicas):
        assert set(await places(door, replicas, [body] * 24)) == {0, 1}


@pytest.mark.parametrize("model", [7, None, ["a"], {"a": "b"}, "ä", 'a"b\\', "x" * 5000, "a\nb", "a+b*0.5"], ids=str)
async def test_an_odd_model_is_passed_on_as_it_is(model: Any) -> None:
    async with door_to(answers, answers) as (door, replicas):
        await places(door, replicas, [{"model": model}] * 3)
        told = [json.loads(body)["model"] for replica in replicas for body in replica.bodies]
        assert told == [model] * 3


async def test_who_leaves_takes_only_its_own_models_away_and_who_comes_in_its_place_has_them() -> None:
    async with door_to(answers, answers, answers) as (door, replicas), Replica(answers).listening() as new:
        asked = [{"model": model} for model in MODELS]
        first = await places(door, replicas, asked)
        gone, *_ = replicas
        gone.ready = False
        await asyncio.sleep(2.0)
        second = await places(door, replicas, asked)
        assert all(now == before for now, before in zip(second, first, strict=True) if before != 0)
        assert 0 not in second
        stayed = [replica.address for replica in replicas[1:]]
        door.addresses = stayed
        await asyncio.sleep(1.5)
        door.addresses = [new.address, *stayed]
        for _ in range(100):
            await asyncio.sleep(0.1)
            if (third := await places(door, [new, *replicas[1:]], asked)) == first:
                break
        assert third == first


async def test_a_hot_model_is_spread_and_a_rare_one_beside_it_is_not() -> None:
    async with door_to(takes_long, takes_long) as (door, replicas):
        asking = [asyncio.create_task(door.request(CHAT, json={"model": "hot"})) for _ in range(40)]
        while tries(replicas) < 40:
            await asyncio.sleep(0.02)
        assert min(len(replica.heads) for replica in replicas) >= 8
        for replica in replicas:
            replica.fate = answers
        assert len(set(await places(door, replicas, [{"model": "rare"}] * 10))) == 1
        for each in asking:
            each.cancel()
        await asyncio.gather(*asking, return_exceptions=True)


@pytest.mark.parametrize("fate", [dies, is_fenced])
async def test_under_load_one_that_refuses_leaves_the_other_to_answer_all(fate: Fate) -> None:
    """Though it has nothing in flight, and the other all: what is sent again goes there."""
    async with door_to(answers, answers) as (door, (first, second)):

        async def in_a_moment(replica: Replica, writer: asyncio.StreamWriter) -> None:
            await asyncio.sleep(0.05)
            await answers(replica, writer)

        first.fate = second.fate = in_a_moment
        told: Counter[int] = Counter()
        async with httpx.AsyncClient(base_url=door.url, timeout=20) as client:

            async def ask(number: int) -> None:
                for at in range(20):
                    model = "auto" if at % 2 else f"domain-{number}"
                    told[(await client.post(CHAT, json={"model": model})).status_code] += 1

            asking = [asyncio.create_task(ask(number)) for number in range(16)]
            await asyncio.sleep(0.2)
            first.fate = fate
            await asyncio.gather(*asking)
        assert told == {200: 320}
