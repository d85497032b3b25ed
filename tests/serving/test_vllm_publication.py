"""Publication on vLLM: versions change under load, and every answer is what its stamped version says alone."""

import asyncio
import json
import os
from pathlib import Path

import httpx
import psutil
import pytest
from safetensors.numpy import load_file, save_file

from serving.errors import PrepareFailed, Unavailable
from serving.frontdoor import build_app
from tests.serving.conftest import Notebook, Theatre
from tests.serving.stage import DOMAINS, Reference, template

pytestmark = [pytest.mark.vllm, pytest.mark.asyncio(loop_scope="session")]
TOKENS = 12
PUBLICATIONS = int(os.environ.get("ANABRANCH_PUBLICATIONS", "100"))
KINDS = 8
"""Different weights among the versions."""


def altered(theatre: Theatre, folder: Path, scale: float) -> Path:
    """A PEFT folder like banking's whose upper weights are multiplied by `scale`."""
    source = theatre.folders["banking"]
    folder.mkdir()
    (folder / "adapter_config.json").write_bytes((source / "adapter_config.json").read_bytes())
    weights = load_file(source / "adapter_model.safetensors")
    save_file({name: w * scale for name, w in weights.items()}, folder / "adapter_model.safetensors")
    return folder


def memory() -> int:
    """Bytes of this process and of the engine's."""
    own = psutil.Process()
    return sum(int(each.memory_full_info().pss) for each in (own, *own.children(recursive=True)))


async def test_requests_flow_while_versions_are_published(theatre: Theatre, tmp_path: Path) -> None:
    """None fails, each answer is token for token what PEFT gives for the version and manifest on its stamp, every third
    publication goes back to an earlier version, and none of it is kept in memory."""
    first = theatre.publisher.registry.current()
    version = 100
    served: dict[str, Path] = {}
    for domain in DOMAINS:
        adapter = theatre.publisher.adapter(domain, 50, rank=8, folder=theatre.folders[domain])
        served[adapter.name] = theatre.folders[domain]
    await theatre.publish(*DOMAINS, versions=dict.fromkeys(DOMAINS, 50))
    ids = template(theatre.model).encode_prompt("<s>once upon a time\n")
    answers: list[tuple[str, int, tuple[int, ...]]] = []
    failures: list[str] = []
    done = asyncio.Event()
    transport = httpx.ASGITransport(app=build_app(theatre.service, Notebook()))

    async def ask(client: httpx.AsyncClient, model: str, stream: bool) -> None:
        body = {"model": model, "prompt": ids, "max_tokens": TOKENS, "temperature": 0, "ignore_eos": True}
        body |= {"return_token_ids": True, "add_special_tokens": False, "stream": stream}
        while not done.is_set():
            answer = await client.post("/v1/completions", json=body)
            if answer.status_code != 200:
                failures.append(answer.text)
                continue
            lines = [line.removeprefix("data: ") for line in answer.text.splitlines() if line]
            parts = [json.loads(line) for line in lines if line != "[DONE]"]
            tokens = tuple(token for part in parts for token in part["choices"][0]["token_ids"])
            stamp, number = answer.headers["x-anabranch-adapter"], int(answer.headers["x-anabranch-manifest"])
            assert parts[0]["model"] == stamp
            answers.append((stamp, number, tokens))

    async with httpx.AsyncClient(transport=transport, base_url="http://replica", timeout=60) as client:
        asking = [
            asyncio.create_task(ask(client, model, stream))
            for model in ("banking", "travel", "base", "auto")
            for stream in (False, True)
        ]
        folders = [altered(theatre, tmp_path / str(kind), 1.0 + 0.2 * kind) for kind in range(KINDS)]
        for step in range(PUBLICATIONS):
            number = step - 2 if step % 3 == 2 else step
            folder = folders[number % KINDS]
            theatre.folders[f"banking{version + number}"] = folder
            manifest = await theatre.publish(
                *DOMAINS, versions={**dict.fromkeys(DOMAINS, 50), "banking": version + number}
            )
            served[manifest.routes["banking"].adapter] = folder
            seen = len(answers)
            while len(answers) < seen + 12 and not failures:
                await asyncio.sleep(0.01)
            if step == PUBLICATIONS // 2:
                before = memory()
        growth = memory() / before - 1.0
        done.set()
        await asyncio.gather(*asking)

    print(f"{PUBLICATIONS} publications, {len(answers)} answers, memory {growth:+.2%} over the second half")
    assert not failures
    assert growth <= 0.01
    assert first is None or min(number for _, number, _ in answers) > first.number
    reference = Reference(theatre.model)
    expected = {
        stamp: tuple(reference.tokens(served.get(stamp), ids, TOKENS)) for stamp in {stamp for stamp, _, _ in answers}
    }
    wrong = [stamp for stamp, _, tokens in answers if tokens != expected[stamp]]
    assert not wrong, f"{len(wrong)} of {len(answers)} answers are not their version's: {set(wrong)}"
    banking = {stamp for stamp, _, _ in answers if stamp.startswith("banking@")}
    assert len(banking) >= 2 * PUBLICATIONS // 3
    assert len({expected[stamp] for stamp in banking}) > 3, "the versions must differ to show anything"
    await theatre.service.settle()
    health = theatre.service.health()
    assert health.leases == 0 and len(health.versions) == len(DOMAINS)


async def test_a_poisoned_adapter_is_found_by_the_probe(theatre: Theatre, tmp_path: Path) -> None:
    await theatre.publish(*DOMAINS)
    await theatre.service.settle()
    before = theatre.service.health()
    theatre.folders["banking7"] = altered(theatre, tmp_path / "nan", float("nan"))
    with pytest.raises(PrepareFailed) as failure:
        await theatre.publish(*DOMAINS, versions={"banking": 7})
    assert failure.value.version.startswith("banking@v7-") and "finite" in failure.value.what
    assert theatre.service.health() == before
    await theatre.publish(*DOMAINS)


async def test_more_domains_than_slots_are_served_from_their_folders(theatre: Theatre, tmp_path: Path) -> None:
    """Eight adapters on three slots and four in memory, all asked at once."""
    names = [f"d{index}" for index in range(8)]
    for index, name in enumerate(names):
        theatre.folders[name] = altered(theatre, tmp_path / name, 0.5 + 0.25 * index)
    await theatre.publish(*names)
    ids = template(theatre.model).encode_prompt("<s>lily saw\n")

    async def ask(model: str) -> list[int]:
        body = {"model": model, "prompt": ids, "max_tokens": TOKENS, "temperature": 0, "ignore_eos": True}
        reply = await theatre.service.complete({**body, "return_token_ids": True, "add_special_tokens": False})
        assert reply.body is not None
        return reply.body["choices"][0]["token_ids"]

    asked = [*names, "base"] * 2
    answers = await asyncio.gather(*(ask(name) for name in asked))
    reference = Reference(theatre.model)
    for name, tokens in zip(asked, answers, strict=True):
        assert tokens == reference.tokens(theatre.folders.get(name), ids, TOKENS), name
    await theatre.publish(*DOMAINS)


async def test_an_adapter_that_is_away_fails_its_own_requests_and_the_engine_lives(
    theatre: Theatre, tmp_path: Path
) -> None:
    names = [f"e{index}" for index in range(8)]
    for index, name in enumerate(names):
        theatre.folders[name] = altered(theatre, tmp_path / name, 0.5 + 0.25 * index)
    manifest = await theatre.publish(*names)
    service = theatre.service
    away = [name for name in names if manifest.routes[name].adapter not in service.health().loaded]
    folders = [Path(theatre.publisher.registry.adapter(manifest.routes[name].adapter).path) for name in away]
    for folder in folders:
        folder.rename(folder.with_name(f"aside-{folder.name}"))

    async def ask(name: str) -> str:
        try:
            reply = await service.complete({"model": name, "prompt": "lily saw", "max_tokens": 3})
        except Unavailable:
            return "unavailable"
        return str((reply.body or {})["model"]).split("@")[0]

    asked = names * 3
    told = await asyncio.gather(*map(ask, asked))
    assert told == ["unavailable" if name in away else name for name in asked]
    assert service.ready and service.health().leases == service.health().waiting == 0
    for folder in folders:
        folder.with_name(f"aside-{folder.name}").rename(folder)
    assert await asyncio.gather(*map(ask, asked)) == asked
    await theatre.publish(*DOMAINS)


async def test_a_version_is_published_while_others_hold_all_slots(theatre: Theatre, tmp_path: Path) -> None:
    """Its probe waits for none of them, nor do requests for it once it is in service."""
    await theatre.publish(*DOMAINS)
    theatre.folders["late"] = altered(theatre, tmp_path / "late", 1.5)
    done = asyncio.Event()

    async def hold(model: str) -> None:
        body = {"model": model, "prompt": "once upon a time", "max_tokens": 100, "ignore_eos": True}
        while not done.is_set():
            await theatre.service.complete(body)

    # Two of each, so that a slot is never free in between.
    holders = [asyncio.create_task(hold(model)) for model in DOMAINS for _ in range(2)]
    try:
        await asyncio.sleep(0.5)
        async with asyncio.timeout(10):
            manifest = await theatre.publish(*DOMAINS, "late")
            await theatre.service.complete({"model": "late", "prompt": "once upon a time", "max_tokens": 3})
    finally:
        done.set()
        await asyncio.gather(*holders)
    assert theatre.service.served().number == manifest.number and theatre.service.ready
    ids = template(theatre.model).encode_prompt("<s>lily saw\n")
    body = {"model": "late", "prompt": ids, "max_tokens": TOKENS, "temperature": 0, "ignore_eos": True}
    reply = await theatre.service.complete({**body, "return_token_ids": True, "add_special_tokens": False})
    assert reply.body is not None
    expected = Reference(theatre.model).tokens(theatre.folders["late"], ids, TOKENS)
    assert reply.body["choices"][0]["token_ids"] == expected
    await theatre.publish(*DOMAINS)


async def test_an_older_version_comes_back(theatre: Theatre) -> None:
    ids = template(theatre.model).encode_prompt("<s>the big dog\n")
    body = {"model": "banking", "prompt": ids, "max_tokens": TOKENS, "temperature": 0, "ignore_eos": True}
    texts = []
    for version in (1, 2, 1):
        await theatre.publish(*DOMAINS, versions={"banking": version})
        reply = await theatre.service.complete(body)
        assert reply.body is not None and reply.body["model"].startswith(f"banking@v{version}-")
        texts.append(reply.body["choices"][0]["text"])
    assert texts[0] == texts[2] != texts[1]
