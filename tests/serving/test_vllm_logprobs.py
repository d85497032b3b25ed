"""Log probabilities of prompts, echoed or asked for, are PEFT's, whatever else is in the batch."""

import asyncio
from pathlib import Path
from typing import Any

import pytest
import torch

from registry.adapters import Parity
from serving.errors import PrepareFailed
from tests.serving.conftest import Theatre
from tests.serving.stage import DOMAINS, Reference, template

pytestmark = [pytest.mark.vllm, pytest.mark.asyncio(loop_scope="session")]
MODELS = ("base", *DOMAINS)


@pytest.fixture(scope="module")
def reference(theatre: Theatre) -> Reference:
    return Reference(theatre.model)


@pytest.fixture(scope="module")
def prompts(theatre: Theatre) -> list[list[int]]:
    """Of one token, of a few, and of more than one step takes (64)."""
    encode = template(theatre.model).encode_prompt
    return [encode("<s>"), encode("<s>am 3. Mai 2021"), encode("<s>" + "lily saw the big dog. " * 20)[:200]]


async def complete(theatre: Theatre, model: str, prompt: Any, **more: Any) -> list[dict[str, Any]]:
    body = {"model": model, "prompt": prompt, "max_tokens": 2, "temperature": 0, "ignore_eos": True}
    reply = await theatre.service.complete({**body, "add_special_tokens": False, "return_token_ids": True, **more})
    assert reply.body is not None
    choices: list[dict[str, Any]] = reply.body["choices"]
    return choices


def check_prompt(choice: dict[str, Any], expected: torch.Tensor, prompt: list[int], top: int) -> None:
    """The first position has nothing before it; each other one tells its own token and the likeliest `top`."""
    own = choice["prompt_logprobs"]
    assert own[0] is None and len(own) == len(prompt)
    for position, candidates in enumerate(own[1:]):
        logprobs = {int(token): candidate["logprob"] for token, candidate in candidates.items()}
        wanted = {prompt[position + 1], *expected[position].topk(top).indices.tolist()}
        assert set(logprobs) == wanted
        for token, logprob in logprobs.items():
            assert logprob == pytest.approx(float(expected[position, token]), abs=2e-4)


async def test_prompt_log_probabilities_in_one_batch_equal_peft(
    theatre: Theatre, reference: Reference, prompts: list[list[int]]
) -> None:
    """Each prompt is asked for without them first, so that its prefix is cached."""
    await theatre.publish(*DOMAINS)
    wanted = [(model, prompt) for prompt in prompts for model in MODELS]
    for top in (None, 0, 3):
        more = {} if top is None else {"prompt_logprobs": top}
        answers = await asyncio.gather(*(complete(theatre, model, prompt, **more) for model, prompt in wanted))
        for (model, prompt), (choice,) in zip(wanted, answers, strict=True):
            folder = theatre.folders.get(model)
            assert choice["token_ids"] == reference.tokens(folder, prompt, 2), model
            if top is not None:
                check_prompt(choice, reference.logprobs(folder, prompt), prompt, top)


async def test_an_echo_tells_the_prompts_log_probabilities(
    theatre: Theatre, reference: Reference, prompts: list[list[int]]
) -> None:
    await theatre.publish(*DOMAINS)
    wanted = [(model, prompt, new) for prompt in prompts[1:] for model in MODELS for new in (0, 2)]
    answers = await asyncio.gather(
        *(complete(theatre, model, p, echo=True, logprobs=1, max_tokens=new) for model, p, new in wanted)
    )
    for (model, prompt, new), (choice,) in zip(wanted, answers, strict=True):
        folder = theatre.folders.get(model)
        tokens = prompt + reference.tokens(folder, prompt, new)
        expected = reference.logprobs(folder, tokens)
        own = choice["logprobs"]["token_logprobs"]
        assert own[0] is None and len(own) == len(tokens)
        right = [float(expected[position, token]) for position, token in enumerate(tokens[1:])]
        assert own[1:] == pytest.approx(right, abs=2e-4), (model, new)


async def test_several_prompts_and_samples_each_have_their_own(
    theatre: Theatre, reference: Reference, prompts: list[list[int]]
) -> None:
    await theatre.publish(*DOMAINS)
    answers = await asyncio.gather(
        *(complete(theatre, model, prompts[1:], prompt_logprobs=1, n=2, temperature=1.0) for model in MODELS)
    )
    for model, choices in zip(MODELS, answers, strict=True):
        assert len(choices) == 4
        for choice in choices:
            prompt = prompts[1:][choice["index"] // 2]
            check_prompt(choice, reference.logprobs(theatre.folders.get(model), prompt), prompt, 1)


async def test_a_chat_tells_its_rendered_prompt_and_a_stream_its_echo(theatre: Theatre, reference: Reference) -> None:
    await theatre.publish(*DOMAINS)
    style = template(theatre.model)
    messages = [{"role": "user", "content": "once upon a time"}]
    body = {"messages": messages, "max_tokens": 2, "prompt_logprobs": 1, "temperature": 0}
    replies = await asyncio.gather(*(theatre.service.chat({**body, "model": model}) for model in MODELS))
    prompt = style.encode_prompt(style.render(messages))
    for model, reply in zip(MODELS, replies, strict=True):
        assert reply.body is not None
        check_prompt(reply.body, reference.logprobs(theatre.folders.get(model), prompt), prompt, 1)
    more = {"prompt": "lily saw", "max_tokens": 2, "echo": True, "logprobs": 1, "stream": True}
    told = []
    for model in MODELS:
        reply = await theatre.service.complete({**more, "model": model})
        assert reply.events is not None
        told.append("".join([event async for event in reply.events]))
    assert all("lily saw" in text and '"error"' not in text for text in told) and len(set(told)) == len(MODELS)


async def test_an_adapter_is_published_only_with_the_effect_that_was_learned(
    theatre: Theatre, reference: Reference, prompts: list[list[int]]
) -> None:
    """Its rows are PEFT's; one that comes with another's, or with those of no adapter, is refused by what it does."""

    def rows(folder: Path | None) -> list[Parity]:
        found = []
        for prompt in prompts[1:]:
            logprobs = reference.logprobs(folder, prompt)
            half = len(prompt) // 2
            own = [float(logprobs[at - 1, prompt[at]]) for at in range(half, len(prompt))]
            found.append(Parity(ids=tuple(prompt), prompt_tokens=half, loss=-sum(own) / len(own)))
        return found

    await theatre.publish(*DOMAINS)
    folder, number = theatre.folders["banking"], theatre.service.health().manifest
    for version, wrong in ((21, None), (22, theatre.folders["travel"])):
        adapter = theatre.publisher.adapter("banking", version, rank=8, folder=folder, parity=rows(wrong))
        manifest = theatre.publisher.publish([adapter])
        with pytest.raises(PrepareFailed, match="effect"):
            await theatre.service.prepare(manifest.number)
        assert theatre.service.health().manifest == number
    right = theatre.publisher.adapter("banking", 23, rank=8, folder=folder, parity=rows(folder))
    manifest = theatre.publisher.publish([right])
    await theatre.service.prepare(manifest.number)
    await theatre.service.commit(manifest.number)
    await theatre.publish(*DOMAINS)
