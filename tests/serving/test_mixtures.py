"""Several adapters that answer as one: names, weights, what is held and kept, and who may ask."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from dataclasses import dataclass
from random import Random

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from learning.adapter_shape import StoredAdapter
from learning.rls import RouterWeights
from registry.adapters import Adapter
from serving.caller import CALLER, Caller
from serving.engine import LoadedAdapter
from serving.errors import Refused
from serving.mixtures import MixedAdapters, named_parts, quarters
from serving.service import RoutedService
from tests.serving.conftest import KNOBS, WORDS
from tests.serving.memory_engine import MemoryEngine
from tests.serving.publisher import Publisher, word_router


@dataclass
class Serving:
    """A replica, and what is published to it."""

    service: RoutedService
    engine: MemoryEngine
    publisher: Publisher
    client: httpx.AsyncClient

    def adapter(self, domain: str, version: int = 1, rank: int = 2) -> Adapter:
        return self.publisher.adapter(domain, version, rank=rank)

    async def publish(self, adapters: list[Adapter], router: RouterWeights | None = None) -> None:
        self.publisher.publish(adapters, router)
        await self.service.catch_up()


@pytest.fixture
def serving(
    service: RoutedService, engine: MemoryEngine, publisher: Publisher, client: httpx.AsyncClient
) -> Iterator[Serving]:
    yield Serving(service, engine, publisher, client)
    service._publication._composites.close()


@pytest.mark.parametrize(
    ("model", "parts"),
    [
        ("a+b", [("a", 1), ("b", 1)]),
        ("a*0.7+b*0.3", [("a", 700), ("b", 300)]),
        ("a*999+b*0.001", [("a", 999_000), ("b", 1)]),
        ("a@v1-0a1b2c3d*1+b*1", [("a@v1-0a1b2c3d", 1000), ("b", 1000)]),
    ],
)
def test_a_name_says_parts_and_weights(model: str, parts: list[tuple[str, int]]) -> None:
    assert named_parts(model) == parts


@pytest.mark.parametrize(
    "model",
    ["+", "a+", "+a", "a++b", "a*", "*", "a*0.7+b", "a*0+b*1", "a*-1+b*1", "a*nan+b*1", "a*inf+b*1", "a*1e0+b*1",
     "a*1000+b*1", "a*0.1234+b*1", "a*1*1+b*1", "a*٣+b*1", "a *1+b*1 ", "a*.5+b*.5", "a+b+c+d+e"],
)  # fmt: skip
def test_what_is_no_mixture_is_refused_by_name_and_in_words(model: str) -> None:
    with pytest.raises(Refused) as refused:
        for name, _ in named_parts(model):
            assert " " not in name
            raise AssertionError(f"{model!r} was taken")
    assert refused.value.status == 400


@given(st.lists(st.integers(1, 999_999), min_size=1, max_size=4), st.randoms())
def test_a_mixture_is_named_by_the_ratio_alone_and_its_name_is_itself(weights: list[int], order: Random) -> None:
    adapters = [LoadedAdapter(f"{name}@v1-00000000", at, name, 2) for at, name in enumerate("abcd"[: len(weights)])]
    parts = list(zip(adapters, weights, strict=True))
    mixture = MixedAdapters.of(parts)
    again = [(adapter, 3 * weight) for adapter, weight in parts]
    order.shuffle(again)
    assert MixedAdapters.of(again) == mixture
    assert [weight for _, weight in mixture.parts] == [weight / sum(weights) for weight in weights]
    by_name = {adapter.name: adapter for adapter in adapters}
    assert MixedAdapters.of([(by_name[name], weight) for name, weight in named_parts(mixture.name)]) == mixture


@given(st.lists(st.floats(-50, 50), min_size=1, max_size=4), st.floats(0, 5))
def test_shares_are_quarters_that_follow_the_scores(scores: list[float], scale: float) -> None:
    scores.sort(reverse=True)
    found = quarters(scores, scale)
    assert sum(found) == 4 and found[0] > 0 and found == sorted(found, reverse=True)


def test_who_scores_clearly_higher_answers_alone() -> None:
    assert quarters([1.0, 0.0], 0.3) == [4, 0]
    assert quarters([0.6, 0.6], 0.3) == [2, 2]
    assert quarters([0.6, 0.3], 0.3) == [3, 1]
    assert quarters([0.6, 0.5], 0.0) == [4, 0]


async def ask(client: httpx.AsyncClient, model: str, **more: object) -> httpx.Response:
    return await client.post("/v1/completions", json={"model": model, "prompt": "hello there", **more})


async def test_two_domains_answer_as_one_and_it_is_told(serving: Serving) -> None:
    cats, dogs = serving.adapter("cats"), serving.adapter("dogs")
    await serving.publish([cats, dogs])
    async with serving.client as client:
        answer = await ask(client, "dogs*0.7+cats*0.3")
    name = f"{cats.name}*3+{dogs.name}*7"
    assert answer.status_code == 200
    assert answer.headers["x-anabranch-adapter"] == name and answer.headers["x-anabranch-domain"] == "cats+dogs"
    body = answer.json()
    assert body["model"] == name and body["system_fingerprint"] == f"1:{name}"
    (decision,) = body["anabranch"]["decisions"]
    assert [(part["domain"], part["adapter"], part["weight"]) for part in decision["parts"]] == [
        ("cats", cats.name, 0.3),
        ("dogs", dogs.name, 0.7),
    ]
    assert decision["nearest"] is False
    text = serving.service.metrics.text().decode()
    assert f'anabranch_requests_total{{adapter="{cats.name}",domain="cats",model="mixture"}} 1.0' in text


async def test_the_same_mixture_is_one_composite_however_it_is_written(serving: Serving) -> None:
    cats, dogs = serving.adapter("cats"), serving.adapter("dogs")
    await serving.publish([cats, dogs])
    async with serving.client as client:
        names = ["cats+dogs", "dogs+cats", f"{dogs.name}+cats", "cats*0.5+dogs*0.5", f"{cats.name}+{dogs.name}"]
        answers = [await ask(client, name) for name in names]
    assert {answer.headers["x-anabranch-adapter"] for answer in answers} == {f"{cats.name}+{dogs.name}"}
    assert serving.engine.log.count(("load", f"{cats.name}+{dogs.name}")) == 1
    assert [version for version in serving.service.health().versions] == sorted([cats.name, dogs.name])


@pytest.mark.parametrize(
    ("model", "status"),
    [
        ("cats+birds", 404),
        ("cats+auto", 400),
        ("base+cats", 400),
        ("cats+cats", 400),
        ("cats+", 400),
        ("cats*0+dogs*1", 400),
    ],
)
async def test_what_can_not_be_mixed_is_refused(serving: Serving, model: str, status: int) -> None:
    await serving.publish([serving.adapter("cats"), serving.adapter("dogs")])
    async with serving.client as client:
        answer = await ask(client, model)
        assert answer.status_code == status and answer.json()["error"]["code"] == status
        assert (await ask(client, "cats+dogs")).status_code == 200


async def test_a_version_and_its_own_domain_are_one_adapter_named_twice(serving: Serving) -> None:
    cats = serving.adapter("cats")
    await serving.publish([cats, serving.adapter("dogs")])
    async with serving.client as client:
        answer = await ask(client, f"cats+{cats.name}")
    assert answer.status_code == 400 and "once" in answer.json()["error"]["message"]


async def test_parts_stay_while_a_mixture_answers_and_go_with_it(serving: Serving) -> None:
    cats, dogs = serving.adapter("cats"), serving.adapter("dogs")
    await serving.publish([cats, dogs])
    composite = f"{cats.name}+{dogs.name}"
    serving.engine.gate.clear()
    async with serving.client as client:
        asking = asyncio.create_task(ask(client, "cats+dogs"))
        while not serving.engine.used[composite]:
            await asyncio.sleep(0)
        await serving.publish([serving.adapter("cats", 2), dogs])
        assert {cats.name, composite} <= set(serving.service._publication.residency.known)
        serving.engine.gate.set()
        assert (await asking).headers["x-anabranch-adapter"] == composite
        await serving.service.settle()
        known = serving.service._publication.residency.known
        assert composite not in known and cats.name not in known
        assert (await ask(client, "cats+dogs")).headers["x-anabranch-adapter"] != composite


async def test_mixtures_without_end_take_no_more_room_than_there_is(serving: Serving) -> None:
    await serving.publish([serving.adapter("cats"), serving.adapter("dogs")])
    most = KNOBS.max_cpu_loras
    async with serving.client as client:
        asking = [ask(client, f"cats*{weight / 1000:.3f}+dogs*7") for weight in range(1, most + 10)]
        assert {answer.status_code for answer in await asyncio.gather(*asking)} == {200}
        await serving.service.settle()
    publication = serving.service._publication
    assert len(publication.residency.known) <= most + 2
    made = {folder.parent for folder in publication._composites._folders.values()}
    assert len(made) == 1 and len(list(made.pop().iterdir())) <= most
    assert len(publication._composites._asked_for) <= most
    at = next(iter(publication._composites._folders.values())).parent
    await serving.service.stop()
    assert not at.exists()


async def test_a_part_that_can_not_be_read_is_told_to_who_asks_and_is_read_again_later(serving: Serving) -> None:
    cats, dogs = serving.adapter("cats"), serving.adapter("dogs")
    await serving.publish([cats, dogs])
    away = cats.path.with_name("away")
    cats.path.rename(away)
    async with serving.client as client:
        answer = await ask(client, "cats+dogs")
        assert answer.status_code == 503 and "retry-after" in answer.headers
        assert (await ask(client, "dogs")).status_code == 200
        away.rename(cats.path)
        assert (await ask(client, "cats+dogs")).status_code == 200


async def test_auto_mixes_only_where_several_score_alike_and_as_asked(serving: Serving) -> None:
    cats, dogs = serving.adapter("cats"), serving.adapter("dogs")
    await serving.publish([cats, dogs], word_router(WORDS))
    undecided = {"model": "auto", "prompt": "meow woof"}
    async with serving.client as client:

        async def domain(top_k: str | None, prompt: str = "meow woof") -> str:
            headers = {} if top_k is None else {"x-anabranch-top-k": top_k}
            answer = await client.post("/v1/completions", json={**undecided, "prompt": prompt}, headers=headers)
            return str(answer.headers["x-anabranch-domain"]) if answer.status_code == 200 else str(answer.status_code)

        assert await domain(None) == await domain("1") == "cats"
        assert await domain("2") == await domain("4") == "cats+dogs"
        assert await domain("2", "meow") == "cats"
        assert await domain("2", "nothing") == "base"
        assert [await domain(said) for said in ("0", "5", "-1", "two", "1.0", "")] == ["400"] * 6
        routed = await client.post("/v1/route", json={"input": "meow woof", "top_k": 2})
        (decision,) = routed.json()["decisions"]
        assert decision["domain"] == "cats+dogs" and [part["weight"] for part in decision["parts"]] == [0.5, 0.5]


async def test_a_key_gets_no_part_of_a_domain_that_it_is_not_for(serving: Serving) -> None:
    await serving.publish([serving.adapter("cats"), serving.adapter("dogs")], word_router(WORDS))
    token = CALLER.set(Caller("key", domains=frozenset({"cats"})))
    try:
        for model in ("cats+dogs", "cats*0.5+dogs*0.5", "dogs*0.5"):
            with pytest.raises(Refused) as refused:
                await serving.service.complete({"model": model, "prompt": "hello"})
            assert refused.value.status == 403
        reply = await serving.service.complete({"model": "auto", "prompt": "meow woof"}, top_k=2)
        assert reply.headers["x-anabranch-domain"] == "cats"
        assert (await serving.service.complete({"model": "cats*0.5", "prompt": "hello"})).headers[
            "x-anabranch-domain"
        ] == "cats"
    finally:
        CALLER.reset(token)


async def test_beyond_the_engines_rank_the_nearest_answers_and_it_is_told(serving: Serving) -> None:
    await serving.publish([serving.adapter("cats", rank=8), serving.adapter("dogs", rank=1)], word_router(WORDS))
    async with serving.client as client:
        named = await ask(client, "cats+dogs")
        found = await client.post("/v1/completions", json={"prompt": "meow woof"}, headers={"x-anabranch-top-k": "2"})
    for answer in (named, found):
        (decision,) = answer.json()["anabranch"]["decisions"]
        assert decision["domain"] == "cats+dogs" and decision["nearest"] is True
    (folder,) = serving.service._publication._composites._folders.values()
    assert StoredAdapter.read(folder).shape.rank == KNOBS.max_lora_rank == 8


async def test_a_mixture_asked_for_while_it_is_put_out_is_loaded_again(
    serving: Serving, monkeypatch: pytest.MonkeyPatch
) -> None:
    await serving.publish([serving.adapter("cats"), serving.adapter("dogs")])
    engine, going, may_go = serving.engine, asyncio.Event(), asyncio.Event()
    unload = engine.unload

    async with serving.client as client:
        name = (await ask(client, "cats+dogs")).headers["x-anabranch-adapter"]

        async def slowly(adapter: LoadedAdapter) -> None:
            if adapter.name == name:
                going.set()
                await may_go.wait()
            await unload(adapter)

        monkeypatch.setattr(engine, "unload", slowly)
        most = KNOBS.max_cpu_loras
        for weight in range(2, most + 1):
            await ask(client, f"cats*{weight}+dogs*1")
        last = asyncio.create_task(ask(client, f"cats*{most + 1}+dogs*1"))
        await going.wait()
        engine.gate.clear()
        again = asyncio.create_task(ask(client, "cats+dogs"))
        await asyncio.sleep(0.01)
        may_go.set()
        await serving.service.settle()
        engine.gate.set()
        assert {answer.status_code for answer in await asyncio.gather(again, last)} == {200}
        await serving.service.settle()
    assert engine.log.count(("load", name)) == 2 and name in serving.service._publication.residency.known


async def test_a_version_that_the_base_answers_for_adds_nothing(serving: Serving) -> None:
    await serving.publish([serving.adapter("cats", rank=0), serving.adapter("dogs", rank=0), serving.adapter("birds")])
    async with serving.client as client:
        assert (await ask(client, "cats+dogs")).status_code == 200
        assert (await ask(client, "cats+birds")).status_code == 200
    (folder,) = serving.service._publication._composites._folders.values()
    assert StoredAdapter.read(folder).shape.rank == 2


async def test_a_streamed_batch_of_mixtures_and_others_is_told_prompt_by_prompt(serving: Serving) -> None:
    cats, dogs = serving.adapter("cats"), serving.adapter("dogs")
    await serving.publish([cats, dogs], word_router(WORDS))
    body = {"model": "auto", "prompt": ["meow woof", "meow", "nothing"], "stream": True}
    async with serving.client as client:
        answer = await client.post("/v1/completions", json=body, headers={"x-anabranch-top-k": "2"})
    assert answer.headers["x-anabranch-adapter"] == f"{cats.name}+{dogs.name},{cats.name},base"
    assert answer.text.endswith("data: [DONE]\n\n") and f'"text":"{cats.name}+{dogs.name} "' in answer.text
    assert len(serving.service._publication.leases) == 0
