"""Adapters served by vLLM equal PEFT token for token, base rows in the same batch included."""

import asyncio

import pytest

from tests.serving.conftest import Theatre
from tests.serving.stage import DOMAINS, Reference, template

pytestmark = [pytest.mark.vllm, pytest.mark.asyncio(loop_scope="session")]
TOKENS = 24


async def test_base_and_adapters_in_one_batch_equal_peft(theatre: Theatre) -> None:
    await theatre.publish(*DOMAINS)
    style = template(theatre.model)
    prompts = [style.encode_prompt("<s>" + text + "\n") for text in ("once upon a time", "lily saw", "the big dog")]
    wanted = [(model, prompt) for prompt in prompts for model in ("base", *DOMAINS)]

    async def generate(model: str, prompt: list[int]) -> list[int]:
        body = {
            "model": model,
            "prompt": prompt,
            "max_tokens": TOKENS,
            "temperature": 0,
            "ignore_eos": True,
            "return_token_ids": True,
            "add_special_tokens": False,
        }
        reply = await theatre.service.complete(body)
        assert reply.body is not None
        return reply.body["choices"][0]["token_ids"]

    served = await asyncio.gather(*(generate(model, prompt) for model, prompt in wanted))
    reference = Reference(theatre.model)
    expected = [reference.tokens(theatre.folders.get(model), prompt, TOKENS) for model, prompt in wanted]
    wrong = [model for (model, _), own, right in zip(wanted, served, expected, strict=True) if own != right]
    assert not wrong, f"{len(wrong)} of {len(wanted)} differ: {wrong}"
    assert len({tuple(tokens) for tokens in expected}) == len(wanted), "the adapters must differ to show anything"
