"""A manifest on a changed base: no request sees two, none is lost, and what can't be taken leaves all as it was."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from safetensors.numpy import save_file

from learning.base_delta import WEIGHTS
from registry.registry import Registry
from serving.errors import PrepareFailed, Unavailable
from serving.frontdoor import build_app
from serving.service import RoutedService
from tests.serving.conftest import KNOBS, Notebook, PlainTemplate
from tests.serving.memory_engine import MemoryEngine
from tests.serving.publisher import BASE, Publisher, WordFeatures, word_router

WORDS = {"cats": "meow", "dogs": "woof"}
DRAIN_SECONDS = 0.3


@pytest.fixture
def changes(tmp_path: Path) -> Callable[[int], Path]:
    """Folders of changes, each of another content."""

    def make(seed: int) -> Path:
        folder = tmp_path / f"change-{seed}"
        folder.mkdir()
        save_file({"weight": np.full(2, seed, dtype=np.float32)}, folder / WEIGHTS)
        return folder

    return make


@pytest.fixture
def service(engine: MemoryEngine, registry: Registry) -> RoutedService:
    def features(_: object) -> Any:
        return WordFeatures(list(WORDS.values()))

    template: Any = PlainTemplate()
    return RoutedService(engine, registry, features, template, KNOBS, BASE, drain_seconds=DRAIN_SECONDS)


@pytest.fixture
def client(service: RoutedService) -> httpx.AsyncClient:
    transport = httpx.ASGITransport(app=build_app(service, Notebook()))
    return httpx.AsyncClient(transport=transport, base_url="http://replica")


def on_it(publisher: Publisher, version: int, *, rank: int = 0) -> dict[str, str]:
    """A version of each domain on the publisher's base, in force; their names."""
    adapters = [publisher.adapter(domain, version, rank=rank) for domain in WORDS]
    publisher.publish(adapters, word_router(WORDS))
    return {adapter.domain: adapter.name for adapter in adapters}


async def ask(client: httpx.AsyncClient, prompt: str = "meow", **more: Any) -> httpx.Response:
    return await client.post("/v1/completions", json={"model": "auto", "prompt": prompt, **more})


async def test_the_base_answers_under_the_names_of_versions_without_an_adapter(
    service: RoutedService, client: httpx.AsyncClient, publisher: Publisher, engine: MemoryEngine, changes: Any
) -> None:
    before = on_it(publisher, 1, rank=2)
    await service.catch_up()
    delta = publisher.change_base(changes(1))
    after = on_it(publisher, 2)
    await service.prepare(2)
    answer = await ask(client)
    assert (answer.headers["x-anabranch-adapter"], answer.json()["model"]) == (after["cats"], after["cats"])
    assert answer.headers["x-anabranch-base"] == delta[:8] and answer.json()["anabranch"]["base"] == delta
    assert (await ask(client, model="base")).headers["x-anabranch-adapter"] == "base"
    await service.settle()
    assert engine.base == delta and set(engine.present) == set(after.values())
    assert not set(before.values()) & set(engine.present)
    await service.commit(2)
    assert service.health().manifest == 2


async def test_requests_in_flight_end_on_their_base_and_others_wait_for_the_next(
    service: RoutedService, client: httpx.AsyncClient, publisher: Publisher, engine: MemoryEngine, changes: Any
) -> None:
    """The engine itself refuses to change its base under a request."""
    old = on_it(publisher, 1, rank=2)
    await service.catch_up()
    publisher.change_base(changes(1))
    new = on_it(publisher, 2)
    engine.gate.clear()
    under_way = [asyncio.create_task(ask(client, stream=stream)) for stream in (False, True)]
    await _until(lambda: engine.running == 2)
    changing = asyncio.create_task(service.prepare(2))
    await _until(lambda: not service._publication.admission.is_open)
    waiting = [asyncio.create_task(ask(client)) for _ in range(3)]
    await asyncio.sleep(DRAIN_SECONDS / 3)
    assert engine.base == "" and not changing.done() and not any(task.done() for task in waiting)
    engine.gate.set()
    await changing
    stamps = [(await task).headers["x-anabranch-adapter"] for task in [*under_way, *waiting]]
    assert stamps == [old["cats"]] * 2 + [new["cats"]] * 3


@pytest.mark.parametrize("how", ["base", "abstained"])
async def test_what_the_base_answers_ends_on_its_base_as_well(
    service: RoutedService,
    client: httpx.AsyncClient,
    publisher: Publisher,
    engine: MemoryEngine,
    changes: Any,
    how: str,
) -> None:
    """Nothing has to stay loaded for it but the base."""
    on_it(publisher, 1, rank=2)
    await service.catch_up()
    delta = publisher.change_base(changes(1))
    on_it(publisher, 2)
    engine.gate.clear()
    prompt, model = ("meow", "base") if how == "base" else ("", "auto")
    under_way = [asyncio.create_task(ask(client, prompt, model=model, stream=stream)) for stream in (False, True)]
    await _until(lambda: engine.running == 2)
    assert service.health().leases == 2
    with pytest.raises(PrepareFailed, match="2 requests are in flight"):
        await service.prepare(2)
    changing = asyncio.create_task(service.prepare(2))
    await _until(lambda: not service._publication.admission.is_open)
    engine.gate.set()
    await changing
    stamps = [(await task).headers for task in under_way]
    assert [(each["x-anabranch-adapter"], each["x-anabranch-manifest"]) for each in stamps] == [("base", "1")] * 2
    assert engine.base == delta and service.health().leases == 0


async def test_a_request_that_does_not_end_is_not_cut_off(
    service: RoutedService, client: httpx.AsyncClient, publisher: Publisher, engine: MemoryEngine, changes: Any
) -> None:
    old = on_it(publisher, 1, rank=2)
    await service.catch_up()
    publisher.change_base(changes(1))
    on_it(publisher, 2)
    engine.gate.clear()
    endless = asyncio.create_task(ask(client))
    await _until(lambda: engine.running == 1)
    changing = asyncio.create_task(service.prepare(2))
    await _until(lambda: not service._publication.admission.is_open)
    waiting = asyncio.create_task(ask(client))
    with pytest.raises(PrepareFailed, match="1 requests are in flight"):
        await changing
    engine.gate.set()
    assert [(await task).headers["x-anabranch-manifest"] for task in (endless, waiting)] == ["1", "1"]
    assert engine.base == "" and set(engine.present) == set(old.values())
    await service.prepare(2)
    assert (await ask(client)).headers["x-anabranch-manifest"] == "2"


@pytest.mark.parametrize("fault", ["change", "probe", "load"])
async def test_what_can_not_be_taken_leaves_the_base_before_and_its_adapters(
    service: RoutedService,
    client: httpx.AsyncClient,
    publisher: Publisher,
    engine: MemoryEngine,
    changes: Any,
    fault: str,
) -> None:
    old = on_it(publisher, 1, rank=2)
    await service.catch_up()
    delta = publisher.change_base(changes(1))
    new = on_it(publisher, 2, rank=2)
    engine.bad[delta if fault == "change" else new["dogs"]] = fault
    with pytest.raises(PrepareFailed):
        await service.prepare(2)
    assert service.ready and engine.base == "" and set(engine.present) == set(old.values())
    answers = [await ask(client, prompt) for prompt in WORDS.values()]
    assert [answer.headers["x-anabranch-adapter"] for answer in answers] == [old["cats"], old["dogs"]]
    engine.bad.clear()
    await service.prepare(2)
    assert engine.base == delta


async def test_an_engine_that_takes_neither_is_fenced(
    service: RoutedService, client: httpx.AsyncClient, publisher: Publisher, engine: MemoryEngine, changes: Any
) -> None:
    on_it(publisher, 1, rank=2)
    await service.catch_up()
    delta = publisher.change_base(changes(1))
    on_it(publisher, 2)
    engine.bad |= {delta: "change", "base": "change"}
    with pytest.raises(PrepareFailed):
        await service.prepare(2)
    assert not service.ready and "nor could the base before" in str(service.health().fenced)
    assert (await ask(client)).status_code == 503


async def test_an_engine_that_dies_is_no_fault_of_the_change(
    service: RoutedService, publisher: Publisher, engine: MemoryEngine, changes: Any
) -> None:
    on_it(publisher, 1, rank=2)
    await service.catch_up()
    publisher.change_base(changes(1))
    on_it(publisher, 2)
    engine.failure = "out of memory"
    with pytest.raises(PrepareFailed, match="nothing is known against") as failed:
        await service.prepare(2)
    assert isinstance(failed.value.__cause__, Unavailable)
    assert not service.ready


@pytest.mark.parametrize("damage", ["gone", "changed"])
async def test_a_damaged_change_is_refused_before_anybody_waits(
    service: RoutedService,
    client: httpx.AsyncClient,
    publisher: Publisher,
    engine: MemoryEngine,
    registry: Registry,
    changes: Any,
    damage: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("serving.reading._PAUSES", (0.01,))
    on_it(publisher, 1, rank=2)
    await service.catch_up()
    path = registry.bases.path(publisher.change_base(changes(1)))
    on_it(publisher, 2)
    if damage == "gone":
        path.rename(path.with_name("elsewhere"))
    else:
        save_file({"weight": np.ones(2, dtype=np.float32) * 7}, path / WEIGHTS)
    with pytest.raises(PrepareFailed, match="restore"):
        await service.prepare(2)
    assert ("change", "") not in engine.log and (await ask(client)).headers["x-anabranch-manifest"] == "1"


async def test_a_replica_starts_on_a_changed_base_and_goes_back_to_the_one_before(
    service: RoutedService, client: httpx.AsyncClient, publisher: Publisher, engine: MemoryEngine, changes: Any
) -> None:
    first = publisher.change_base(changes(1))
    one = on_it(publisher, 1)
    await service.catch_up()
    assert engine.base == first and service.health().manifest == 1
    publisher.change_base(changes(2))
    on_it(publisher, 2)
    await service.catch_up()
    publisher.base = publisher.base.model_copy(update={"delta": first})
    adapters = [publisher.registry.adapter(name) for name in one.values()]
    publisher.publish(adapters, word_router(WORDS))
    await service.catch_up()
    assert engine.base == first and (await ask(client)).headers["x-anabranch-adapter"] == one["cats"]


async def test_who_waits_in_vain_is_told_why(
    engine: MemoryEngine, registry: Registry, publisher: Publisher, changes: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("serving.publication._CHANGE_PATIENCE", 0.1)
    template: Any = PlainTemplate()
    words = WordFeatures(["meow"])
    service = RoutedService(engine, registry, lambda _: words, template, KNOBS, BASE, drain_seconds=0.0)
    on_it(publisher, 1, rank=2)
    await service.catch_up()
    publisher.change_base(changes(1))
    on_it(publisher, 2)
    engine.changing.clear()
    changing = asyncio.create_task(service.prepare(2))
    await _until(lambda: engine.base == "changing")
    with pytest.raises(Unavailable, match="manifest 2 changes the base"):
        await service.complete({"model": "base", "prompt": "x"})
    engine.changing.set()
    await changing
    assert (await service.complete({"model": "base", "prompt": "x"})).headers["x-anabranch-manifest"] == "2"


async def _until(holds: Callable[[], bool]) -> None:
    async with asyncio.timeout(5):
        while not holds():
            await asyncio.sleep(0.005)
