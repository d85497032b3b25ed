"""A domain of two segments on vLLM: by name the best segment answers, token for token, and auto reports the domain."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from tests.serving.conftest import Theatre
from tests.serving.stage import Reference, extractor, template

pytestmark = [pytest.mark.vllm, pytest.mark.asyncio(loop_scope="session")]
TOKENS = 8
COLUMNS = {"banking": "banking", "travel": "banking#2", "work": "work"}
"""What is said about travel is the second segment of banking here."""


async def publish(theatre: Theatre, first: int, columns: Sequence[str]) -> dict[str, str]:
    """Bring these columns into service as segments of their domains; returns them by the name of their version."""
    said = [each for each, column in COLUMNS.items() if column in columns]
    adapters = [
        theatre.publisher.adapter(COLUMNS[each].split("#")[0], version, rank=8, folder=theatre.folders[each])
        for version, each in enumerate(said, first)
    ]
    weights = replace(theatre.weights, domains=tuple(COLUMNS.values())).restrict(columns)
    manifest = theatre.publisher.publish(adapters, weights, threshold=0.2)
    await theatre.service.prepare(manifest.number)
    await theatre.service.commit(manifest.number)
    return {adapter.name: COLUMNS[each] for adapter, each in zip(adapters, said, strict=True)}


async def ask(theatre: Theatre, model: str, prompts: Sequence[str]) -> list[tuple[str, str, tuple[int, ...]]]:
    """The domain and the version that spoke to each, and its tokens; all prompts are one request."""
    body = {"model": model, "prompt": list(prompts), "max_tokens": TOKENS, "temperature": 0, "ignore_eos": True}
    reply = await theatre.service.complete({**body, "return_token_ids": True, "add_special_tokens": False})
    assert reply.body is not None
    spoke = zip(reply.body["anabranch"]["decisions"], reply.body["choices"], strict=True)
    return [(said["domain"], said["adapter"], tuple(choice["token_ids"])) for said, choice in spoke]


async def test_by_name_the_best_segment_answers_and_auto_reports_the_domain(theatre: Theatre) -> None:
    style = template(theatre.model)
    rendered = {
        said: [style.render([{"role": "user", "content": text}]) for text in texts]
        for said, texts in theatre.texts.items()
    }
    features = extractor(theatre.model, [text for own in rendered.values() for text in own])
    assert features.fingerprint == theatre.weights.fingerprint
    prompts = [text for own in zip(*(rendered[said][:5] for said in COLUMNS), strict=True) for text in own]
    scores_NK = theatre.weights.scores(features.extract(prompts))
    names = list(COLUMNS.values())
    best = [names[column] for column in scores_NK.argmax(axis=1)]
    best_of_banking = [names[column] for column in scores_NK[:, :2].argmax(axis=1)]
    assert set(best) == set(names) and best_of_banking.count("banking#2") >= 5, "both segments must be asked for"
    reference = Reference(theatre.model)
    folders: dict[str, Path] = {column: theatre.folders[said] for said, column in COLUMNS.items()}

    def alone(column: str, prompt: str) -> tuple[int, ...]:
        return tuple(reference.tokens(folders[column], style.encode_prompt(prompt), TOKENS))

    column_of = await publish(theatre, 300, names)
    named = await ask(theatre, "banking", prompts)
    assert [column_of[adapter] for _, adapter, _ in named] == best_of_banking
    assert {domain for domain, _, _ in named} == {"banking"}
    expected = [alone(column, prompt) for column, prompt in zip(best_of_banking, prompts, strict=True)]
    assert [tokens for _, _, tokens in named] == expected

    kept = [place for place, top in enumerate(scores_NK.max(axis=1)) if top > 0.21]
    routed = await ask(theatre, "auto", [prompts[place] for place in kept])
    assert {best[place] for place in kept} == set(names)
    assert [column_of[adapter] for _, adapter, _ in routed] == [best[place] for place in kept]
    assert [domain for domain, _, _ in routed] == [best[place].split("#")[0] for place in kept]
    assert [tokens for _, _, tokens in routed] == [alone(best[place], prompts[place]) for place in kept]

    # A version by its full name is that segment, whatever scores highest.
    (second,) = [adapter for adapter, column in column_of.items() if column == "banking#2"]
    one = prompts[int(np.argmax(scores_NK[:, 0] - scores_NK[:, 1]))]
    assert await ask(theatre, second, [one]) == [("banking", second, alone("banking#2", one))]


async def test_a_segment_that_goes_out_of_service_leaves_its_prompts_to_the_other(theatre: Theatre) -> None:
    prompts = [text + "\n" for text in theatre.texts["travel"][:3]]
    both = await publish(theatre, 310, ["banking", "banking#2"])
    before = await ask(theatre, "banking", prompts)
    only = await publish(theatre, 320, ["banking"])
    after = await ask(theatre, "banking", prompts)
    assert "banking#2" in {both[adapter] for _, adapter, _ in before}
    assert {adapter for _, adapter, _ in after} == set(only)
    assert [tokens for _, _, tokens in before] != [tokens for _, _, tokens in after]
    await theatre.service.settle()
    assert set(theatre.service.health().versions) == set(only)
