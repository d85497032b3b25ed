"""Many domains on few places: whoever asks is answered, by the right adapter, and what fails is his alone."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from registry.adapters import Adapter
from registry.registry import Registry
from serving.errors import PrepareFailed, Unavailable
from serving.options import EngineKnobs
from serving.reply import LeasedEvents, Reply
from serving.service import RoutedService
from tests.serving.conftest import PlainTemplate
from tests.serving.memory_engine import MemoryEngine
from tests.serving.publisher import BASE, Publisher, WordFeatures

KNOBS = EngineKnobs(max_loras=2, max_cpu_loras=3, max_lora_rank=8, max_num_seqs=4, patience_seconds=0.05)


@pytest.fixture(autouse=True)
def _no_long_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("serving.reading._PAUSES", (0.01, 0.02, 0.03))


@pytest.fixture
def engine() -> MemoryEngine:
    engine = MemoryEngine()
    engine.room = KNOBS.max_cpu_loras + 1
    return engine


@pytest.fixture
def service(engine: MemoryEngine, registry: Registry) -> RoutedService:
    template: Any = PlainTemplate()
    return RoutedService(engine, registry, lambda _: WordFeatures(["word"]), template, KNOBS, BASE)


async def publish(
    service: RoutedService, publisher: Publisher, names: Sequence[str], version: int = 1
) -> list[Adapter]:
    adapters = [publisher.adapter(name, version) for name in names]
    number = publisher.publish(adapters).number
    await service.prepare(number)
    await service.commit(number)
    await service.settle()
    return adapters


async def ask(service: RoutedService, model: str, **more: Any) -> Reply:
    return await service.complete({"model": model, "prompt": "hello", **more})


def text_of(reply: Reply) -> str:
    assert reply.body is not None
    return str(reply.body["choices"][0]["text"])


NAMES = [f"domain-{index}" for index in range(12)]


async def test_more_domains_than_places_are_all_published_and_all_answer(
    service: RoutedService, publisher: Publisher, engine: MemoryEngine
) -> None:
    adapters = await publish(service, publisher, NAMES)
    health = service.health()
    assert set(health.versions) == {adapter.name for adapter in adapters}
    assert set(health.loaded) == set(engine.present) and len(health.loaded) == engine.room
    for adapter in adapters:
        assert text_of(await ask(service, adapter.domain)).startswith(adapter.name)
    assert service.health().leases == 0 and service.health().waiting == 0


async def test_a_steady_load_on_all_slots_leaves_nobody_out(
    service: RoutedService, publisher: Publisher, engine: MemoryEngine
) -> None:
    """R23: two slots, steady load on two domains, a third published; and it is published at once."""
    await publish(service, publisher, NAMES[:2])
    over = asyncio.Event()

    async def keep_asking(model: str) -> None:
        while not over.is_set():
            reply = await ask(service, model, stream=True)
            async for _ in reply.events or ():
                await asyncio.sleep(0.001)

    load = [asyncio.create_task(keep_asking(name)) for name in NAMES[:2] * 3]
    await asyncio.sleep(0.05)
    async with asyncio.timeout(5):
        number = publisher.publish(
            [*(publisher.adapter(name, 2) for name in NAMES[:2]), publisher.adapter("third", 1)]
        ).number
        await service.prepare(number)
        await service.commit(number)
        for _ in range(3):
            assert text_of(await ask(service, "third")).startswith("third@v1")
    over.set()
    await asyncio.gather(*load)
    assert engine.most_used <= KNOBS.max_loras


async def test_a_zipf_load_is_answered_by_whom_it_asked(
    service: RoutedService, publisher: Publisher, engine: MemoryEngine
) -> None:
    adapters = await publish(service, publisher, NAMES)
    draw = random.Random(0)

    async def client() -> None:
        for _ in range(15):
            chosen = draw.choices(adapters, [1 / rank for rank in range(1, len(adapters) + 1)])[0]
            reply = await ask(service, chosen.domain, stream=draw.random() < 0.5)
            if reply.events is None:
                assert text_of(reply).startswith(chosen.name)
                continue
            async for event in reply.events:
                await asyncio.sleep(0)
                assert chosen.name in event or event.startswith("data: [DONE]")

    await asyncio.gather(*(client() for _ in range(12)))
    assert engine.most_used <= KNOBS.max_loras and engine.running == 0
    assert service.health().leases == 0 and service.health().waiting == 0
    assert b'anabranch_adapter_moves_total{event="evicted"}' in service.metrics.text()


async def test_a_folder_that_is_away_fails_its_own_requests_alone_and_comes_back(
    service: RoutedService, publisher: Publisher, engine: MemoryEngine
) -> None:
    """R24: more domains than places, an adapter's folder away for a moment."""
    adapters = await publish(service, publisher, NAMES)
    absent = next(adapter for adapter in adapters if adapter.name not in engine.present)
    aside = Path(absent.path).with_name("aside")
    Path(absent.path).rename(aside)
    with pytest.raises(Unavailable, match=f"{absent.name} can't be had now"):
        await ask(service, absent.domain)
    with pytest.raises(Unavailable):
        await ask(service, absent.domain, stream=True)
    others = [adapter for adapter in adapters if adapter is not absent]
    for adapter in others:
        assert text_of(await ask(service, adapter.domain)).startswith(adapter.name)
    assert engine.failure is None and service.ready
    aside.rename(absent.path)
    assert text_of(await ask(service, absent.domain)).startswith(absent.name)
    assert service.health().leases == 0


async def test_damage_is_that_requests_failure_too(
    service: RoutedService, publisher: Publisher, engine: MemoryEngine
) -> None:
    adapters = await publish(service, publisher, NAMES)
    damaged = next(adapter for adapter in adapters if adapter.name not in engine.present)
    (Path(damaged.path) / "adapter_model.safetensors").write_bytes(b"other")
    with pytest.raises(Unavailable, match="sha256"):
        await ask(service, damaged.domain)
    assert damaged.name not in engine.present
    other = next(adapter for adapter in adapters if adapter is not damaged)
    assert text_of(await ask(service, other.domain)).startswith(other.name)


async def test_what_the_engine_refuses_once_is_asked_of_it_again(
    service: RoutedService, publisher: Publisher, engine: MemoryEngine
) -> None:
    adapters = await publish(service, publisher, NAMES)
    odd = next(adapter for adapter in adapters if adapter.name not in engine.present)
    engine.bad[odd.name] = "load"
    with pytest.raises(Unavailable, match="does not fit"):
        await ask(service, odd.domain)
    engine.bad.clear()
    assert text_of(await ask(service, odd.domain)).startswith(odd.name)


async def test_requests_for_one_that_is_away_share_one_reading(
    service: RoutedService, publisher: Publisher, engine: MemoryEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    adapters = await publish(service, publisher, NAMES)
    away = next(adapter for adapter in adapters if adapter.name not in engine.present)
    before = engine.log.count(("load", away.name))
    replies = await asyncio.gather(*(ask(service, away.domain) for _ in range(4)))
    assert all(text_of(reply).startswith(away.name) for reply in replies)
    assert engine.log.count(("load", away.name)) == before + 1


async def test_a_batch_for_more_domains_than_slots_is_answered_whole(
    service: RoutedService, publisher: Publisher, engine: MemoryEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    adapters = await publish(service, publisher, NAMES)
    monkeypatch.setattr(service._chooser, "choose", spread(service, adapters))
    prompts = [str(index) for index in range(len(adapters))]
    for _ in range(2):
        reply = await service.complete({"prompt": prompts})
        assert reply.body is not None
        texts = [choice["text"] for choice in reply.body["choices"]]
        assert [text.split()[0] for text in texts] == [adapter.name for adapter in adapters]
    streams = [await service.complete({"prompt": prompts, "stream": True}) for _ in range(3)]
    told = await asyncio.gather(*(drained(reply) for reply in streams))
    assert all(
        each[-1] == "data: [DONE]\n\n" and adapter.name in "".join(each) for each in told for adapter in adapters
    )
    assert engine.most_used <= KNOBS.max_loras and service.health().waiting == 0


def spread(service: RoutedService, adapters: Sequence[Adapter]) -> Any:
    """Chooses the adapters in turn, one for each prompt of a batch."""
    from serving.selection import Choice

    async def choose(served: Any, call: Any, session: Any, *_: object) -> list[Choice]:
        return [Choice(served.by_domain[adapter.domain].newest) for adapter in adapters]

    return choose


async def drained(reply: Reply) -> list[str]:
    assert reply.events is not None
    return [event async for event in reply.events]


async def test_who_does_not_read_his_stream_to_its_end_keeps_no_slot(
    service: RoutedService, publisher: Publisher, engine: MemoryEngine
) -> None:
    await publish(service, publisher, NAMES[:3])
    left: list[LeasedEvents] = []
    for name in NAMES[:2]:
        reply = await ask(service, name, stream=True)
        assert reply.events is not None
        # All but the last event: its tokens are made.
        while service.health().leases and "DONE" not in await anext(reply.events):
            pass
        left.append(reply.events)
    async with asyncio.timeout(5):
        assert text_of(await ask(service, NAMES[2])).startswith(NAMES[2])
    for events in left:
        await events.aclose()


async def test_who_goes_away_while_waiting_leaves_nothing(
    service: RoutedService, publisher: Publisher, engine: MemoryEngine
) -> None:
    await publish(service, publisher, NAMES[:3])
    engine.gate.clear()
    running = [asyncio.create_task(ask(service, name)) for name in NAMES[:2]]
    await asyncio.sleep(0.02)
    waiting = [asyncio.create_task(ask(service, NAMES[2])) for _ in range(3)]
    await asyncio.sleep(0.02)
    assert service.health().waiting == 3
    for task in waiting:
        task.cancel()
    await asyncio.wait(waiting)
    assert service.health().waiting == 0
    engine.gate.set()
    await asyncio.gather(*running)
    assert text_of(await ask(service, NAMES[2])).startswith(NAMES[2])
    assert service.health().leases == 0


async def test_a_replica_that_starts_serves_what_it_can_have(
    registry: Registry, service: RoutedService, publisher: Publisher, engine: MemoryEngine
) -> None:
    adapters = await publish(service, publisher, NAMES)
    number = publisher.publish([*adapters, publisher.adapter("new", 1)]).number
    damaged = adapters[0]
    (Path(damaged.path) / "adapter_model.safetensors").write_bytes(b"other")
    fresh = MemoryEngine()
    fresh.room = engine.room
    template: Any = PlainTemplate()
    again = RoutedService(fresh, registry, lambda _: WordFeatures(["word"]), template, KNOBS, BASE)
    await again.catch_up()
    assert again.manifest is not None and again.manifest.number == number
    with pytest.raises(Unavailable):
        await ask(again, damaged.domain)
    for name in (*NAMES[1:], "new"):
        assert text_of(await ask(again, name)).startswith(name)
    assert len(fresh.log) < 3 * len(NAMES)


async def test_a_replica_that_starts_loads_first_what_others_used_lately(
    service: RoutedService, publisher: Publisher, registry: Registry
) -> None:
    adapters = await publish(service, publisher, NAMES)
    # A manifest of before that names the same is what tells a start from a publication.
    publisher.publish(adapters)
    await service.catch_up()
    hot = [adapters[at] for at in (9, 4, 11)]
    for adapter in reversed(hot):
        await ask(service, adapter.domain)
    assert service.used[:3] == tuple(adapter.name for adapter in hot)
    engine, template = MemoryEngine(), PlainTemplate()
    again = RoutedService(
        engine, registry, lambda _: WordFeatures(["word"]), template, KNOBS, BASE,  # type: ignore[arg-type]
        hot=("gone@v1-00000000", *service.used),
    )  # fmt: skip
    await again.catch_up()
    assert again.used == tuple(adapter.name for adapter in hot), "the hottest is to be put out last"
    assert len(engine.log) == len(hot)


async def test_what_is_new_is_checked_also_by_a_replica_that_starts(
    registry: Registry, service: RoutedService, publisher: Publisher, engine: MemoryEngine
) -> None:
    adapters = await publish(service, publisher, NAMES[:2])
    bad = publisher.adapter("new", 1)
    publisher.publish([*adapters, bad])
    fresh = MemoryEngine()
    fresh.bad[bad.name] = "probe"
    template: Any = PlainTemplate()
    again = RoutedService(fresh, registry, lambda _: WordFeatures(["word"]), template, KNOBS, BASE)
    with pytest.raises(PrepareFailed, match="new@v1"):
        await again.catch_up()


async def test_an_unload_that_fails_costs_a_place_and_no_request(
    service: RoutedService, publisher: Publisher, engine: MemoryEngine
) -> None:
    adapters = await publish(service, publisher, NAMES)
    stuck = next(iter(engine.present))
    engine.bad[stuck] = "unload"
    for adapter in (*adapters, *adapters):
        assert text_of(await ask(service, adapter.domain)).startswith(adapter.name)
    engine.bad.clear()
    for adapter in adapters:
        await ask(service, adapter.domain)
    assert service.health().unload_failure is None


async def test_what_comes_next_is_brought_in_before_its_turn(
    service: RoutedService, publisher: Publisher, engine: MemoryEngine
) -> None:
    adapters = await publish(service, publisher, NAMES)
    running = [adapter for adapter in adapters if adapter.name in engine.present][:2]
    away = next(adapter for adapter in adapters if adapter.name not in engine.present)
    engine.gate.clear()
    tasks = [asyncio.create_task(ask(service, adapter.domain)) for adapter in running]
    await asyncio.sleep(0.02)
    tasks.append(asyncio.create_task(ask(service, away.domain)))
    async with asyncio.timeout(5):
        while away.name not in engine.present:
            await asyncio.sleep(0.01)
    assert service.health().waiting == 1
    engine.gate.set()
    await asyncio.gather(*tasks)


async def test_an_engine_that_dies_is_told_as_such(
    service: RoutedService, publisher: Publisher, engine: MemoryEngine
) -> None:
    adapters = await publish(service, publisher, NAMES)
    away = next(adapter for adapter in adapters if adapter.name not in engine.present)
    engine.failure = "out of memory"
    with pytest.raises(Unavailable, match="out of memory"):
        await ask(service, away.domain)
