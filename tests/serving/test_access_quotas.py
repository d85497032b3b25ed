"""Quotas of keys at the door: requests of a minute, tokens of a day as answers tell them; pages of other origins."""

from __future__ import annotations

import asyncio
from typing import Any

import httpx
import pytest

from registry.adapters import Adapter
from tests.serving.doors import House
from tests.serving.memory_engine import MemoryEngine
from tests.serving.sockets import listening
from tests.serving.test_access import CATS, SHOWN, refused, unknown
from tests.serving.test_frontdoor import events


async def test_more_than_the_quota_comes_again_later(house: House, cast: dict[str, Adapter]) -> None:
    async with listening(house.app()) as url, httpx.AsyncClient(base_url=url) as client:
        headers = house.key("infer", requests_per_minute=25)
        asked = [client.post("/v1/completions", json=CATS, headers=headers) for _ in range(60)]
        answers = await asyncio.gather(*asked)
        assert sum(answer.status_code == 200 for answer in answers) == 25
        late = [answer for answer in answers if answer.status_code != 200]
        assert all("25 requests" in refused(answer, 429, "RateLimitError") for answer in late)
        assert all(50 <= int(answer.headers["retry-after"]) <= 60 for answer in late)
        assert (await client.get("/v1/models", headers=house.key("infer"))).status_code == 200


async def test_what_the_key_is_not_for_counts_nothing(house: House) -> None:
    app = house.app()
    headers = house.key("infer", requests_per_minute=1)
    async with house.client(app) as client:
        for _ in range(3):
            refused(await client.get("/v1/status", headers=headers), 403, "PermissionDeniedError")
        assert (await client.get("/v1/models", headers=headers)).status_code == 200
        refused(await client.get("/v1/models", headers=headers), 429, "RateLimitError")


async def test_tokens_are_counted_as_answers_tell_them(house: House, cast: dict[str, Adapter]) -> None:
    app = house.app()
    async with house.client(app) as client:
        key, headers = house.made_key("infer", tokens_per_day=10)
        for _ in range(5):
            answer = await client.post("/v1/completions", json=CATS, headers=headers)
            assert answer.status_code == 200 and answer.json()["usage"]["total_tokens"] == 2
        answer = await client.post("/v1/completions", json=CATS, headers=headers)
        assert "10 tokens" in refused(answer, 429, "RateLimitError")
        assert 1 <= int(answer.headers["retry-after"]) <= 86_400
        refused(await client.post("/v1/chat/completions", json={}, headers=headers), 429, "RateLimitError")
        assert house.access.quotas._meter.used(key.id) == 10


@pytest.mark.parametrize("options", [None, SHOWN, {"include_usage": False}])
async def test_tokens_of_a_stream_are_counted_whatever_its_client_asks_to_see(
    house: House, cast: dict[str, Adapter], options: Any
) -> None:
    app = house.app()
    body = {**CATS, "stream": True} | ({} if options is None else {"stream_options": options})
    async with house.client(app) as client:
        key, headers = house.made_key("infer", tokens_per_day=1_000)
        plain = await client.post("/v1/completions", json=body, headers=house.key("infer"))
        counted = await client.post("/v1/completions", json=body, headers=headers)
        assert events(counted.text) == events(plain.text) and ("usage" in plain.text) == (options == SHOWN)
        assert house.access.quotas._meter.used(key.id) == 2


async def test_a_stream_that_is_left_is_counted_by_what_had_come(
    house: House, engine: MemoryEngine, cast: dict[str, Adapter]
) -> None:
    async with listening(house.app()) as url, httpx.AsyncClient(base_url=url) as client:
        key, headers = house.made_key("infer", tokens_per_day=1_000)
        body = {**CATS, "prompt": "a b c d", "stream": True}
        async with client.stream("POST", "/v1/completions", json=body, headers=headers) as answer:
            lines = answer.aiter_lines()
            assert (await anext(lines)).startswith("data: {")
            engine.gate.clear()
        for _ in range(300):
            if not house.service.health().leases:
                break
            await asyncio.sleep(0.01)
        assert 2 <= house.access.quotas._meter.used(key.id) <= 7


async def test_pages_of_listed_origins_may_ask_with_a_key(house: House, cast: dict[str, Adapter]) -> None:
    origin = {"origin": "https://chat.example.org"}
    wish = {"access-control-request-method": "POST", "access-control-request-headers": "authorization"}
    async with (
        listening(house.app(origins=("https://chat.example.org",))) as url,
        httpx.AsyncClient(base_url=url) as client,
    ):
        answer = await client.options("/v1/completions", headers={**origin, **wish})
        assert answer.status_code == 200
        assert answer.headers["access-control-allow-origin"] == origin["origin"]
        assert "authorization" in answer.headers["access-control-allow-headers"].lower()
        refused_too = await client.post("/v1/completions", json=CATS, headers=origin)
        assert unknown(refused_too) and refused_too.headers["access-control-allow-origin"] == origin["origin"]
        answer = await client.post("/v1/completions", json=CATS, headers={**origin, **house.key("infer")})
        assert "x-anabranch-domain" in answer.headers["access-control-expose-headers"]
        other = {"origin": "https://evil.example.org"}
        assert (await client.options("/v1/completions", headers={**other, **wish})).status_code == 400
        answer = await client.post("/v1/completions", json=CATS, headers={**other, **house.key("infer")})
        assert "access-control-allow-origin" not in answer.headers
    async with house.client(house.app()) as client:
        assert (await client.options("/v1/completions", headers={**origin, **wish})).status_code == 401


async def test_refusals_are_counted(house: House) -> None:
    app = house.app()
    headers = house.key("admin", requests_per_minute=3)
    async with house.client(app) as client:
        await client.get("/v1/models")
        await client.get("/v1/models", headers=headers)
        for _ in range(3):
            await client.get("/v1/domains", headers=headers)
        await client.get("/v1/domains", headers=headers)
        told = (await client.get("/metrics", headers=house.key("admin"))).text
    assert 'anabranch_refusals_total{status="401"} 1.0' in told
    assert 'anabranch_refusals_total{status="403"} 1.0' in told
    assert 'anabranch_refusals_total{status="429"} 1.0' in told
