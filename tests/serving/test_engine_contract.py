"""What every engine must do, run on the one in memory and on vLLM."""

import asyncio
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from serving.engine import Engine, LoadedAdapter
from serving.errors import EngineFailed, Refused
from tests.serving.conftest import Theatre
from tests.serving.memory_engine import MemoryEngine

pytestmark = pytest.mark.asyncio(loop_scope="session")


@pytest.fixture(scope="module", params=["memory", pytest.param("vllm", marks=pytest.mark.vllm)])
def engine(request: pytest.FixtureRequest) -> Engine:
    if request.param == "memory":
        return MemoryEngine()
    theatre: Theatre = request.getfixturevalue("theatre")
    return theatre.service.engine


@pytest.fixture(scope="module")
def adapter() -> LoadedAdapter:
    """An adapter under a number that nothing else in the session uses."""
    return LoadedAdapter("contract@v1-00000000", 900_001, "contract", 8)


@pytest.fixture(scope="module")
def folder(engine: Engine, request: pytest.FixtureRequest) -> Path:
    if isinstance(engine, MemoryEngine):
        return Path("/nowhere")
    theatre: Theatre = request.getfixturevalue("theatre")
    return theatre.folders["travel"]


async def text(engine: Engine, adapter: LoadedAdapter | None, **more: Any) -> tuple[str, str]:
    body = {"prompt": "once upon a time", "max_tokens": 6, "temperature": 0, **more}
    answer = await engine.generate(engine.parse("completion", body), adapter)
    assert isinstance(answer, dict)
    return answer["model"], answer["choices"][0]["text"]


async def test_a_loaded_adapter_answers_under_its_name_and_the_base_stays_itself(
    engine: Engine, adapter: LoadedAdapter, folder: Path
) -> None:
    before = await text(engine, None)
    await engine.load(adapter, folder)
    await engine.probe(adapter)
    await engine.probe(None)
    named, own = await text(engine, adapter)
    assert named == adapter.name and own != before[1]
    assert await text(engine, None) == before
    await engine.unload(adapter)
    assert await text(engine, None) == before


async def test_a_version_comes_back_under_another_number(engine: Engine, adapter: LoadedAdapter, folder: Path) -> None:
    first, second = replace(adapter, number=900_002), replace(adapter, number=900_003)
    await engine.load(first, folder)
    before = await text(engine, first)
    await engine.unload(first)
    await engine.load(second, folder)
    assert await text(engine, second) == before
    await engine.unload(second)


async def test_unloading_what_is_not_loaded_is_no_error(engine: Engine, adapter: LoadedAdapter) -> None:
    await engine.unload(replace(adapter, name="contract@v9-00000000", number=900_009))


async def test_a_stream_ends_with_done_and_can_be_left(engine: Engine, adapter: LoadedAdapter) -> None:
    body = {"prompt": "once upon a time", "max_tokens": 6, "temperature": 0, "stream": True}
    call = engine.parse("completion", body)
    assert call.stream
    whole = await engine.generate(call, None)
    assert not isinstance(whole, dict)
    told = [event async for event in whole]
    assert told[-1] == "data: [DONE]\n\n" and all(event.startswith("data: ") for event in told)
    left = await engine.generate(engine.parse("completion", {**body, "max_tokens": 200}), None)
    assert not isinstance(left, dict)
    await anext(left)
    await left.aclose()
    await asyncio.wait_for(text(engine, None), 10)


async def test_a_malformed_request_is_refused_in_openai_form(engine: Engine) -> None:
    with pytest.raises(Refused) as refused:
        engine.parse("chat", {"model": "x"})
    assert refused.value.status == 400 and refused.value.body["error"]["code"] == 400


async def test_token_ids_out_of_range_are_refused(engine: Engine) -> None:
    assert isinstance(engine.decode([1, 2]), str)
    with pytest.raises(Refused):
        engine.decode([10**6])


async def test_metrics_are_prometheus_text(engine: Engine) -> None:
    assert b"# TYPE" in engine.metrics()


async def test_an_adapter_that_does_not_fit_is_an_engine_failure(
    engine: Engine, adapter: LoadedAdapter, tmp_path: Path
) -> None:
    misfit = replace(adapter, name="misfit@v1-00000000", number=900_004)
    if isinstance(engine, MemoryEngine):
        engine.bad[misfit.name] = "load"
    with pytest.raises(EngineFailed):
        await engine.load(misfit, tmp_path)
    assert engine.failure is None


async def test_an_adapter_that_was_put_out_comes_back_as_it_was(
    engine: Engine, adapter: LoadedAdapter, folder: Path
) -> None:
    back = replace(adapter, name="back@v1-00000000", number=900_005)
    await engine.load(back, folder)
    before = await text(engine, back)
    await engine.unload(back)
    await engine.load(back, folder)
    assert await text(engine, back) == before
    await engine.unload(back)


async def test_a_stream_that_nobody_reads_on_is_done_when_its_tokens_are_made(engine: Engine) -> None:
    body = {"prompt": ["once upon a time", "the end"], "max_tokens": 6, "temperature": 0.5, "n": 2, "stream": True}
    done = asyncio.Event()
    stream = await engine.generate(engine.parse("completion", body), None, done.set)
    assert not isinstance(stream, dict) and not done.is_set()
    await anext(stream)
    if isinstance(engine, MemoryEngine):  # it makes its tokens as they are taken
        async for _ in stream:
            pass
    await asyncio.wait_for(done.wait(), 20)
    await stream.aclose()
