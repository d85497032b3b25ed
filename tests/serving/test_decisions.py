"""Decisions are kept where that is asked for, with no more of their prompts than is allowed, and stop no request."""

from __future__ import annotations

import asyncio
from typing import Any

import httpx
import pytest

from registry.registry import Registry
from serving import decision_log
from serving.decision_options import DecisionOptions
from serving.frontdoor import build_app
from serving.service import RoutedService
from tests.serving.conftest import KNOBS, WORDS, Notebook, PlainTemplate
from tests.serving.memory_engine import MemoryEngine
from tests.serving.publisher import BASE, Publisher, WordFeatures, word_router

TEXT = "meow from jane.doe@example.org, see https://example.org/a?b=1 or call 555-0199"


@pytest.fixture(autouse=True)
def fast(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(decision_log, "_EVERY_S", 0.01)


def kept(registry: Registry, **options: Any) -> RoutedService:
    words = WordFeatures(list(WORDS.values()))
    chosen = DecisionOptions(**{"keep": 100, **options})
    return RoutedService(MemoryEngine(), registry, lambda _: words, PlainTemplate(), KNOBS, BASE, decisions=chosen)


async def published(service: RoutedService, publisher: Publisher) -> RoutedService:
    adapters = [publisher.adapter(name, 1) for name in WORDS]
    manifest = publisher.publish(adapters, word_router(WORDS))
    await service.prepare(manifest.number)
    await service.commit(manifest.number)
    return service


def client(service: RoutedService) -> httpx.AsyncClient:
    transport = httpx.ASGITransport(app=build_app(service, Notebook()), raise_app_exceptions=False)
    return httpx.AsyncClient(transport=transport, base_url="http://replica")


async def told(asking: httpx.AsyncClient, service: RoutedService, query: str = "") -> list[dict[str, Any]]:
    if service._recorder._writing is not None:
        await service._recorder._writing
    answer = await asking.get(f"/v1/decisions{query}")
    assert answer.status_code == 200, answer.text
    return list(answer.json()["decisions"])


async def test_each_prompt_of_each_request_is_kept_with_who_answered(registry: Registry, publisher: Publisher) -> None:
    service = await published(kept(registry, prompts="whole"), publisher)
    async with client(service) as asking:
        await asking.post("/v1/completions", json={"prompt": ["meow", "woof woof"], "model": "auto"})
        chat = {"messages": [{"role": "user", "content": "woof"}], "stream": True, "model": "cats"}
        async with asking.stream("POST", "/v1/chat/completions", json=chat) as answer:
            assert [line async for line in answer.aiter_lines()]
        found = await told(asking, service)
        assert [(each["prompt"], each["model"], each["decision"]["domain"]) for each in found] == [
            ("woof", "cats", "cats"),
            ("woof woof", "auto", "dogs"),
            ("meow", "auto", "cats"),
        ]
        assert set(found[1]["decision"]["scores"]) == {"cats", "dogs"} and found[1]["manifest"] == 1
        assert [each["prompt"] for each in await told(asking, service, "?domain=dogs")] == ["woof woof"]
        assert [each["prompt"] for each in await told(asking, service, "?limit=1")] == ["woof"]
        assert [each["prompt"] for each in await told(asking, service, f"?before={found[1]['id']}")] == ["meow"]
        assert await told(asking, service, "?abstained=true") == []
        one = await asking.get(f"/v1/decisions/{found[1]['id']}")
        assert one.json() == found[1]
        assert (await asking.get("/v1/decisions/nothing")).status_code == 404


@pytest.mark.parametrize("query", ["?limit=0", "?limit=1001", "?limit=x", "?abstained=perhaps"])
async def test_a_query_that_means_nothing_is_refused(registry: Registry, query: str) -> None:
    async with client(kept(registry)) as asking:
        assert (await asking.get(f"/v1/decisions{query}")).status_code == 400


@pytest.mark.parametrize(
    ("prompts", "expected"),
    [("none", None), ("whole", TEXT), ("masked", "meow from [address], see [link] or call ###-####")],
)
async def test_of_a_prompt_is_kept_what_may_be(
    registry: Registry, publisher: Publisher, prompts: str, expected: str | None
) -> None:
    service = await published(kept(registry, prompts=prompts), publisher)
    async with client(service) as asking:
        await asking.post("/v1/completions", json={"prompt": TEXT})
        assert [each["prompt"] for each in await told(asking, service)] == [expected]


@pytest.mark.parametrize("prompts", ["masked", "whole"])
async def test_a_key_in_a_prompt_is_never_kept_and_a_long_one_is_cut(registry: Registry, prompts: str) -> None:
    service = kept(registry, prompts=prompts)
    async with client(service) as asking:
        for prompt in ("ab-0123456789ab-" + "a1" * 32, "ab " * 30):
            await asking.post("/v1/completions", json={"prompt": prompt})
        long, key = await told(asking, service)
        assert "a1a1" not in key["prompt"] and "#a#a" not in key["prompt"]
        assert len(long["prompt"]) <= 2000


async def test_nothing_is_kept_unless_asked_for(service: RoutedService, registry: Registry) -> None:
    async with client(service) as asking:
        await asking.post("/v1/completions", json={"prompt": "meow"})
        assert (await asking.get("/v1/decisions")).json() == {"keep": 0, "decisions": []}
    assert not registry.storage.entries("decisions")


async def test_a_share_of_them_is_kept(registry: Registry) -> None:
    service = kept(registry, share=0.5)
    async with client(service) as asking:
        for _ in range(80):
            assert (await asking.post("/v1/completions", json={"prompt": "meow"})).status_code == 200
        assert 15 <= len(await told(asking, service)) <= 65


async def test_a_registry_that_takes_none_stops_no_request_and_is_said(
    registry: Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    service = kept(registry)
    monkeypatch.setattr(decision_log, "_MOST_WAITING", 3)
    put = service.decisions.put

    def fails(_: object) -> None:
        raise OSError("disk")

    monkeypatch.setattr(service.decisions, "put", fails)
    async with client(service) as asking:
        for _ in range(5):
            assert (await asking.post("/v1/completions", json={"prompt": "meow"})).status_code == 200
        while service._recorder._failure is None:
            await _moment()
        assert "decisions are not kept" in str(service.health().trouble)
        monkeypatch.setattr(service.decisions, "put", put)
        assert len(await told(asking, service)) == 3
    assert "2 decisions came faster" in str(service.health().trouble)


async def test_what_waits_when_the_service_ends_is_kept(registry: Registry, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(decision_log, "_EVERY_S", 60.0)
    service = kept(registry)
    async with client(service) as asking:
        await asking.post("/v1/completions", json={"prompt": "meow"})
    await service.stop()
    assert len(list(service.decisions.newest())) == 1


async def _moment() -> None:
    await asyncio.sleep(0.01)
