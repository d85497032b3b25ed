"""A changed base on vLLM: every answer is token for token that of the base it names, and none fails."""

import asyncio
from pathlib import Path
from typing import Any

import httpx
import pytest
import torch
from transformers import AutoModelForCausalLM

from learning.base_delta import RevisableModel, save_base_delta
from serving.errors import PrepareFailed
from serving.frontdoor import build_app
from tests.serving.conftest import Notebook, Theatre
from tests.serving.stage import DOMAINS, template

pytestmark = [pytest.mark.vllm, pytest.mark.asyncio(loop_scope="session")]
TOKENS = 12


def changed(model: Path, folder: Path, seed: int) -> Path:
    """A change of the upper two layers whose effect on the answers can't be missed."""
    torch.manual_seed(seed)
    state = AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32).state_dict()
    upper = {n: t for n, t in state.items() if any(f"layers.{i}." in n for i in (3, 4)) and n.endswith("proj.weight")}
    save_base_delta({n: t + 0.3 * t.std() * torch.randn_like(t) for n, t in upper.items()}, folder)
    return folder


@torch.no_grad()
def greedy(model: RevisableModel, delta: Path | None, ids: list[int]) -> list[int]:
    model.stand_on(delta)
    out: Any = model.model.generate(  # type: ignore[operator]
        torch.tensor([ids]), max_new_tokens=TOKENS, min_new_tokens=TOKENS, do_sample=False
    )
    return [int(token) for token in out[0, len(ids) :]]


async def test_requests_flow_while_the_base_changes(theatre: Theatre, tmp_path: Path) -> None:
    """Forth, to another, and back to the weights of the checkpoint, whose adapters answer again as they did."""
    ids = template(theatre.model).encode_prompt("<s>once upon a time\n")
    reference = RevisableModel(str(theatre.model), "float32", "cpu")
    folders: dict[str, Path | None] = {"": None}
    service, publisher = theatre.service, theatre.publisher
    transport = httpx.ASGITransport(app=build_app(service, Notebook()))
    answers: list[tuple[str, str, list[int]]] = []
    failures: list[str] = []
    done = asyncio.Event()

    async def ask(client: httpx.AsyncClient, model: str) -> None:
        body: dict[str, Any] = {"model": model, "prompt": ids, "max_tokens": TOKENS, "temperature": 0}
        body |= {"ignore_eos": True, "return_token_ids": True, "add_special_tokens": False}
        while not done.is_set():
            answer = await client.post("/v1/completions", json=body)
            if answer.status_code != 200:
                failures.append(answer.text)
                continue
            stamp, base = answer.headers["x-anabranch-adapter"], answer.json()["anabranch"]["base"]
            assert answer.json()["model"] == stamp
            answers.append((stamp, base, answer.json()["choices"][0]["token_ids"]))

    await theatre.publish(*DOMAINS, versions=dict.fromkeys(DOMAINS, 70))
    async with httpx.AsyncClient(transport=transport, base_url="http://replica", timeout=120) as client:
        with_adapter = await client.post(
            "/v1/completions", json={"model": DOMAINS[0], "prompt": ids, "max_tokens": TOKENS, "temperature": 0}
        )
        asking = [asyncio.create_task(ask(client, model)) for model in ("base", DOMAINS[0], "base", DOMAINS[1])]
        for version in (71, 72):
            await asyncio.sleep(0.5)
            folder = changed(theatre.model, tmp_path / str(version), version)
            folders[publisher.change_base(folder)] = folder
            publisher.publish([publisher.adapter(domain, version, rank=0) for domain in DOMAINS])
            await service.catch_up()
        await asyncio.sleep(0.5)
        publisher.change_base(None)
        await theatre.publish(*DOMAINS, versions=dict.fromkeys(DOMAINS, 73))
        await asyncio.sleep(0.5)
        done.set()
        await asyncio.gather(*asking)
        again = await client.post(
            "/v1/completions", json={"model": DOMAINS[0], "prompt": ids, "max_tokens": TOKENS, "temperature": 0}
        )
    assert failures == []
    expected = {base: await asyncio.to_thread(greedy, reference, folder, ids) for base, folder in folders.items()}
    assert len({tuple(tokens) for tokens in expected.values()}) == 3
    by_base = [(base, tokens) for stamp, base, tokens in answers if stamp == "base" or base]
    assert {base for base, _ in by_base} == set(folders)
    assert [tokens for base, tokens in by_base if tokens != expected[base]] == []
    assert again.json()["choices"] == with_adapter.json()["choices"]
    await service.settle()


async def test_a_change_of_another_model_leaves_the_engine_as_it_was(theatre: Theatre, tmp_path: Path) -> None:
    ids = template(theatre.model).encode_prompt("<s>once upon a time\n")
    body = {"prompt": ids, "max_tokens": TOKENS, "temperature": 0, "model": "base"}
    await theatre.publish(*DOMAINS, versions=dict.fromkeys(DOMAINS, 80))
    before = await theatre.service.complete(body)
    folder = tmp_path / "other"
    save_base_delta({"model.layers.99.mlp.up_proj.weight": torch.ones(2, 2)}, folder)
    theatre.publisher.change_base(folder)
    theatre.publisher.publish([theatre.publisher.adapter(domain, 81, rank=0) for domain in DOMAINS])
    with pytest.raises(PrepareFailed, match=r"layers\.99"):
        await theatre.service.catch_up()
    after = await theatre.service.complete(body)
    assert before.body and after.body and before.body["choices"] == after.body["choices"]
    theatre.publisher.change_base(None)
    await theatre.publish(*DOMAINS, versions=dict.fromkeys(DOMAINS, 82))
