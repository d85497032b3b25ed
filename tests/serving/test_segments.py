"""A domain of several segments on one replica: who answers by name and by content, and how a segment comes and goes."""

from __future__ import annotations

import asyncio
import json
import math
from typing import Any

import httpx
import pytest
import pytest_asyncio
from hypothesis import given
from hypothesis import strategies as st

from learning.errors import LearningError, TemplateError
from registry.adapters import Adapter
from registry.registry import Registry
from serving.errors import PrepareFailed
from serving.scorer import Decision
from serving.service import RoutedService
from tests.serving.conftest import KNOBS, PlainTemplate
from tests.serving.memory_engine import MemoryEngine
from tests.serving.publisher import BASE, Publisher, WordFeatures, word_router

COLUMNS = {"cats": "meow", "cats#2": "purr", "dogs": "woof"}
OLD, NEW, DOGS = "cats v1", "cats v2", "dogs v1"


class Fussy(WordFeatures):
    """Makes nothing of a text with the word poison."""

    def extract(self, texts: Any) -> Any:
        if any("poison" in text for text in texts):
            raise LearningError("no tokens")
        return super().extract(texts)


def replica(engine: MemoryEngine, registry: Registry) -> RoutedService:
    return RoutedService(engine, registry, lambda _: Fussy(list(COLUMNS.values())), PlainTemplate(), KNOBS, BASE)


@pytest.fixture
def service(engine: MemoryEngine, registry: Registry) -> RoutedService:
    return replica(engine, registry)


@pytest_asyncio.fixture
async def cast(service: RoutedService, publisher: Publisher) -> dict[str, Adapter]:
    """Cats in two segments, dogs in one, as manifest 1."""
    adapters = {name: publisher.adapter(name.split()[0], int(name[-1])) for name in (OLD, NEW, DOGS)}
    publisher.publish(list(adapters.values()), word_router(COLUMNS))
    await service.catch_up()
    return adapters


def named(cast: dict[str, Adapter], *who: str) -> list[str]:
    return [cast[each].name if each in cast else each for each in who]


@pytest.mark.parametrize(
    ("model", "prompt", "who", "score"),
    [
        ("cats", "meow", OLD, "1.000000"),
        ("cats", "purr", NEW, "1.000000"),
        ("cats", "purr meow", OLD, "1.000000"),  # equal: the lower segment
        ("cats", "woof", OLD, "0.000000"),  # another domain's, and below every threshold
        ("cats", "", NEW, None),
        ("cats", "poison", NEW, None),
        ("dogs", "meow", DOGS, None),
        ("auto", "purr", NEW, "1.000000"),
        ("auto", "meow woof", OLD, "1.000000"),
        ("auto", "moo", "base", "0.000000"),
        ("auto", "", "base", None),
        ("base", "purr", "base", None),
    ],
)
async def test_the_best_segment_answers(
    client: httpx.AsyncClient, cast: dict[str, Adapter], model: str, prompt: str, who: str, score: str | None
) -> None:
    answer = await client.post("/v1/completions", json={"model": model, "prompt": prompt})
    assert answer.json()["model"] == answer.headers["x-anabranch-adapter"] == named(cast, who)[0]
    assert answer.headers["x-anabranch-domain"] == who.split()[0]
    assert answer.headers.get("x-anabranch-score") == score
    assert ("x-anabranch-abstained" in answer.headers) == (model == "auto" and who == "base")


async def test_a_version_by_its_full_name_is_that_version(client: httpx.AsyncClient, cast: dict[str, Adapter]) -> None:
    for adapter in cast.values():
        for prompt in ("meow", "purr", "woof"):
            answer = await client.post("/v1/completions", json={"model": adapter.name, "prompt": prompt})
            assert answer.json()["model"] == adapter.name and "x-anabranch-score" not in answer.headers


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(
    ("model", "who"), [("cats", [NEW, OLD, NEW, OLD, NEW]), ("auto", [NEW, OLD, "base", DOGS, NEW])]
)
async def test_a_mixed_batch_is_split_by_segment_and_merged_in_order(
    client: httpx.AsyncClient, cast: dict[str, Adapter], model: str, who: list[str], stream: bool
) -> None:
    prompts = ["purr 0", "meow 1", "", "woof 3", "purr 4"]
    body = {"model": model, "prompt": prompts, "n": 2, "stream": stream}
    answer = await client.post("/v1/completions", json=body)
    assert answer.headers["x-anabranch-adapter"].split(",") == named(cast, *who)
    texts = dict.fromkeys(range(10), "")
    whole = [json.loads(line[6:]) for line in answer.text.splitlines() if line.startswith("data: {")] or [answer.json()]
    for choice in (choice for part in whole for choice in part["choices"]):
        texts[choice["index"]] += choice["text"]
    spoken = [(name, text) for name, text in zip(named(cast, *who), prompts, strict=True) for _ in range(2)]
    assert [texts[index].split() for index in range(10)] == [
        [name, *text.split(), str(index % 2)] for index, (name, text) in enumerate(spoken)
    ]
    assert [decision["adapter"] for decision in whole[0]["anabranch"]["decisions"]] == named(cast, *who)


async def test_one_text_that_can_not_be_read_leaves_its_neighbours_their_segments(
    client: httpx.AsyncClient, cast: dict[str, Adapter]
) -> None:
    texts = ["meow", "poison", "meow", "purr"]
    answer = await client.post("/v1/completions", json={"model": "cats", "prompt": texts})
    assert answer.headers["x-anabranch-adapter"].split(",") == named(cast, OLD, NEW, OLD, NEW)
    assert answer.headers["x-anabranch-score"] == "1.000000,,1.000000,1.000000"
    assert (await client.post("/v1/completions", json={"model": "auto", "prompt": texts})).status_code == 400


async def test_a_chat_by_name_goes_to_its_segment_also_where_ours_can_not_be_rendered(
    client: httpx.AsyncClient, cast: dict[str, Adapter], monkeypatch: pytest.MonkeyPatch
) -> None:
    body = {"model": "cats", "messages": [{"role": "user", "content": "meow"}]}
    for stream in (False, True):
        answer = await client.post("/v1/chat/completions", json={**body, "stream": stream})
        assert answer.headers["x-anabranch-adapter"] == cast[OLD].name
        assert answer.text.count('"anabranch"') == 1

    def refuse(self: PlainTemplate, messages: Any) -> str:
        raise TemplateError("no such role")

    monkeypatch.setattr(PlainTemplate, "render", refuse)
    answer = await client.post("/v1/chat/completions", json=body)
    assert answer.status_code == 200 and answer.headers["x-anabranch-adapter"] == cast[NEW].name
    assert (await client.post("/v1/chat/completions", json={**body, "model": "auto"})).status_code == 400


async def test_route_tells_of_domains_by_their_best_segments(
    client: httpx.AsyncClient, cast: dict[str, Adapter]
) -> None:
    answer = await client.post("/v1/route", json={"input": ["purr purr meow", "moo"]})
    first, second = answer.json()["decisions"]
    assert (first["domain"], first["adapter"]) == ("cats", cast[NEW].name)
    assert first["score"] == first["confidence"] == 2.0 and first["scores"] == {"cats": 2.0, "dogs": 0.0}
    assert first["abstained"] is None and "is below the threshold 0.5" in second["abstained"]


async def test_every_version_in_service_is_a_model(client: httpx.AsyncClient, cast: dict[str, Adapter]) -> None:
    cards = {card["id"]: card["parent"] for card in (await client.get("/v1/models")).json()["data"]}
    assert list(cards) == ["auto", "base", "cats", *named(cast, OLD, NEW), "dogs", cast[DOGS].name]
    assert cards["cats"] == cast[NEW].name and cards[cast[OLD].name] == "base"


async def test_without_scores_the_newest_version_answers_by_name(
    client: httpx.AsyncClient, service: RoutedService, publisher: Publisher, cast: dict[str, Adapter]
) -> None:
    publisher.publish(list(cast.values()))
    await service.catch_up()
    for prompt in ("meow", "purr"):
        answer = await client.post("/v1/completions", json={"model": "cats", "prompt": prompt})
        assert answer.headers["x-anabranch-adapter"] == cast[NEW].name
    assert service.served().scorer is None


async def test_an_older_segment_may_be_the_one_that_is_updated(
    client: httpx.AsyncClient,
    service: RoutedService,
    publisher: Publisher,
    engine: MemoryEngine,
    cast: dict[str, Adapter],
) -> None:
    newer = publisher.adapter("cats", 3)
    manifest = publisher.publish([newer, cast[NEW], cast[DOGS]], word_router(COLUMNS))
    assert (manifest.routes["cats"].adapter, manifest.routes["cats"].segment) == (newer.name, 1)
    await service.catch_up()
    await service.settle()
    assert engine.log[-2:] == [("load", newer.name), ("unload", cast[OLD].name)]
    who = [
        (await client.post("/v1/completions", json={"model": "cats", "prompt": p})).json()["model"]
        for p in ("meow", "purr", "")
    ]
    assert who == [newer.name, cast[NEW].name, newer.name]


async def test_a_domain_gains_a_segment_while_requests_are_in_flight(
    client: httpx.AsyncClient, service: RoutedService, publisher: Publisher, engine: MemoryEngine
) -> None:
    old, dogs = publisher.adapter("cats", 1), publisher.adapter("dogs", 1)
    publisher.publish([old, dogs], word_router({"cats": "meow", "x": "purr", "dogs": "woof"}))
    await service.catch_up()
    engine.gate.clear()
    ask = [client.post("/v1/completions", json={"model": model, "prompt": "purr"}) for model in ("cats", "auto")]
    early = [asyncio.create_task(each) for each in ask]
    while engine.running < 2:
        await asyncio.sleep(0.001)
    new = publisher.adapter("cats", 2)
    publisher.publish([old, new, dogs], word_router(COLUMNS))
    await service.catch_up()
    late = [
        asyncio.create_task(client.post("/v1/completions", json={"model": "cats", "prompt": prompt}))
        for prompt in ("purr", "meow")
    ]
    while engine.running < 4:
        await asyncio.sleep(0.001)
    engine.gate.set()
    assert [(await each).headers["x-anabranch-adapter"] for each in early] == [old.name, "base"]
    assert [(await each).json()["model"] for each in late] == [new.name, old.name]
    assert [(await each).headers["x-anabranch-manifest"] for each in (*early, *late)] == ["1", "1", "2", "2"]
    await service.settle()
    assert engine.log == [("load", old.name), ("load", dogs.name), ("load", new.name)]
    assert service.health().loaded == tuple(sorted([old.name, new.name, dogs.name]))


@pytest.mark.parametrize("fault", ["rank", "load", "probe"])
async def test_a_segment_that_can_not_be_served_is_named_and_changes_nothing(
    client: httpx.AsyncClient, service: RoutedService, publisher: Publisher, engine: MemoryEngine, fault: str
) -> None:
    old, new = publisher.adapter("cats", 1), publisher.adapter("cats", 2, rank=16 if fault == "rank" else 2)
    engine.bad[new.name] = fault
    publisher.publish([old], word_router(COLUMNS))
    await service.catch_up()
    publisher.publish([old, new], word_router(COLUMNS))
    with pytest.raises(PrepareFailed, match="rank is 16.*at most 8" if fault == "rank" else "train") as failed:
        await service.prepare(2)
    assert failed.value.version == new.name
    assert set(engine.present) == {old.name} and service.health().prepared == ()
    answer = await client.post("/v1/completions", json={"model": "cats", "prompt": "purr"})
    assert answer.json()["model"] == old.name and answer.headers["x-anabranch-manifest"] == "1"


async def test_a_replica_that_starts_anew_serves_all_segments(
    registry: Registry, cast: dict[str, Adapter], client_of: Any
) -> None:
    engine = MemoryEngine()
    again = replica(engine, registry)
    await again.catch_up()
    assert engine.log == [("load", name) for name in named(cast, OLD, NEW, DOGS)]
    async with client_of(again, None) as client:
        answer = await client.post("/v1/completions", json={"model": "cats", "prompt": ["meow", "purr"]})
    assert answer.headers["x-anabranch-adapter"].split(",") == named(cast, OLD, NEW)


@given(st.lists(st.one_of(st.floats(), st.integers(-2, 2).map(float)), max_size=8))
def test_the_best_is_the_first_of_the_highest_numbers(scores: list[float]) -> None:
    names = [str(place) for place in range(len(scores))]
    best = Decision(dict(zip(names, scores, strict=True)), 0.0).best([*names, "unknown"])
    if best is None:
        assert all(math.isnan(score) for score in scores)
    else:
        top = scores[int(best)]
        assert all(math.isnan(score) or score < top for score in scores[: int(best)])
        assert all(math.isnan(score) or score <= top for score in scores)
