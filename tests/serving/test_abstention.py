"""Why a prompt was left to the base: as the published router decides it, and as header, bodies and metrics tell it."""

from __future__ import annotations

import json
import math
from typing import Any, get_args

import httpx
import numpy as np
import pytest

from learning.abstention import ABSTENTION_KINDS, Abstention, AbstentionKind
from learning.heads import BACKGROUND
from learning.rls import StreamingRidge
from learning.served_router import ServedRouter
from serving.abstained import TOKENS, Token, background, low_confidence
from serving.scorer import Scorer
from serving.selection import Choice, routing, stamp
from serving.served import NOTHING_PUBLISHED
from serving.service import RoutedService
from tests.serving.conftest import KNOBS, PlainTemplate
from tests.serving.memory_engine import MemoryEngine
from tests.serving.publisher import BASE, Publisher, WordFeatures, claimed, rule, word_router

WORDS = {"cats": "meow", "dogs": "woof", BACKGROUND: "the"}


@pytest.fixture
def service(engine: MemoryEngine, registry: Any) -> RoutedService:
    return RoutedService(engine, registry, lambda _: WordFeatures(list(WORDS.values())), PlainTemplate(), KNOBS, BASE)


async def stand(service: RoutedService, publisher: Publisher, router: Any) -> None:
    publisher.publish([publisher.adapter("cats", 1), publisher.adapter("dogs", 1)], router)
    await service.catch_up()


def counted(text: str) -> dict[str, float]:
    lines = [line for line in text.splitlines() if line.startswith("anabranch_abstentions_total{")]
    return {line.split('"')[1]: float(line.split()[-1]) for line in lines}


async def test_each_reason_is_told_in_header_bodies_and_metrics(
    client: httpx.AsyncClient, service: RoutedService, publisher: Publisher
) -> None:
    nothing = await client.post("/v1/completions", json={"prompt": ["meow", ""]})
    assert nothing.headers["x-anabranch-abstained"] == "nothing-published,nothing-published"
    await stand(service, publisher, word_router(WORDS))
    prompts = ["meow", "moo", "the the meow", "", "woof"]
    answer = await client.post("/v1/completions", json={"prompt": prompts})
    assert answer.headers["x-anabranch-domain"] == "cats,base,base,base,dogs"
    assert answer.headers["x-anabranch-abstained"] == ",low-confidence,background,unreadable,"
    assert answer.headers["x-anabranch-score"] == "1.000000,0.000000,1.000000,,1.000000"
    decisions = answer.json()["anabranch"]["decisions"]
    assert [decision["abstained"] for decision in decisions] == [
        None,
        "confidence 0.00 is below the threshold 0.50, which keeps 95 % of held-out prompts of its domains",
        "general text scores 2.00, the best domain 1.00",
        "the prompt is empty: there is nothing to route it by",
        None,
    ]
    assert [decision["confidence"] for decision in decisions] == [1.0, 0.0, None, None, 1.0]
    routed = (await client.post("/v1/route", json={"input": prompts})).json()["decisions"]
    assert [{k: v for k, v in decision.items() if k != "scores"} for decision in routed] == decisions
    assert routed[2]["scores"] == {"cats": 1.0, "dogs": 0.0}, "the background is no domain"
    numbers = counted((await client.get("/metrics")).text)
    assert numbers == {"low-confidence": 1.0, "background": 1.0, "nothing-published": 2.0, "unreadable": 1.0}


@pytest.mark.parametrize("stream", [False, True])
async def test_a_chat_tells_it_too(
    client: httpx.AsyncClient, service: RoutedService, publisher: Publisher, stream: bool
) -> None:
    await stand(service, publisher, word_router(WORDS))
    for text, token in (("moo", "low-confidence"), ("meow", None)):
        body = {"messages": [{"role": "user", "content": text}], "stream": stream}
        answer = await client.post("/v1/chat/completions", json=body)
        assert answer.headers.get("x-anabranch-abstained") == token
        first = answer.text.splitlines()[0].removeprefix("data: ")
        (decision,) = json.loads(first)["anabranch"]["decisions"]
        assert (decision["abstained"] is None) == (token is None)


async def test_who_names_a_model_is_not_abstained_from(
    client: httpx.AsyncClient, service: RoutedService, publisher: Publisher
) -> None:
    await stand(service, publisher, word_router(WORDS))
    for model in ("base", "cats"):
        answer = await client.post("/v1/completions", json={"model": model, "prompt": ["moo", "the the", ""]})
        assert "x-anabranch-abstained" not in answer.headers
    assert not any(counted((await client.get("/metrics")).text).values())


def test_many_prompts_are_told_of_in_a_bounded_header() -> None:
    low = low_confidence(0.1, 0.2, 0.95)
    choices = [Choice(None, 0.1, None, low)] * 17
    assert stamp(NOTHING_PUBLISHED, choices)["x-anabranch-abstained"] == ",".join(["low-confidence"] * 16 + ["..."])


@pytest.mark.parametrize("kind", ABSTENTION_KINDS)
async def test_a_replica_decides_as_the_router_that_was_published(
    client: httpx.AsyncClient, service: RoutedService, publisher: Publisher, kind: AbstentionKind
) -> None:
    features = WordFeatures(list(WORDS.values()))
    chance = np.random.default_rng(3)
    texts = {d: [" ".join([WORDS[d]] * n + ["the"] * m) for n, m in chance.integers(1, 4, (30, 2))] for d in WORDS}
    ridge = StreamingRidge(3, 1.0, fingerprint="words")
    for domain, own in texts.items():
        ridge.observe(features.extract(own), [domain] * len(own))
    weights = ridge.weights({domain: [domain] for domain in ("cats", "dogs")})
    held_out = features.extract(texts["cats"][:10] + texts["dogs"][:10])
    needs = {
        "factor": ridge.factor() if kind in ("leverage", "both") else None,
        "distance": ridge.distance({d: [d] for d in ("cats", "dogs")}) if kind == "mahalanobis" else None,
    }
    router = ServedRouter(weights, Abstention.calibrated(kind, 0.9, weights, held_out, **needs))
    await stand(service, publisher, router)
    asked = ["meow meow the", "woof", "the the the the", "meow woof", "woof " * 9]
    own = router.decide(features.extract(asked))
    told = (await client.post("/v1/route", json={"input": asked})).json()["decisions"]
    assert [decision["domain"] for decision in told] == [domain or "base" for domain in own.chosen()]
    assert [decision["confidence"] for decision in told] == pytest.approx(own.confidence_N.tolist())
    for kept, decision in zip(own.keeps_N, told, strict=True):
        assert (decision["abstained"] is None) == kept
        assert kept or "which keeps 90 % of held-out prompts" in decision["abstained"]
    assert any(own.keeps_N)


def test_numbers_that_differ_are_told_apart() -> None:
    assert "confidence 0.4999 is below the threshold 0.5000" in low_confidence(0.49991, 0.5, 0.95).words
    assert low_confidence(math.nan, 0.5, 0.95).words == "its confidence is no finite number"
    assert background(0.30004, 0.3).words == "general text scores 0.30004, the best domain 0.30000"


def test_what_can_not_be_scored_is_low_confidence() -> None:
    class Broken(WordFeatures):
        def extract(self, texts: Any) -> Any:
            return np.full((len(texts), 3), np.nan)

    decision = Scorer(Broken(list(WORDS.values())), rule(word_router(WORDS))).route(["meow"])[0]
    assert claimed(decision) is None and decision.abstained is not None
    assert decision.abstained.token == "low-confidence" and "no finite number" in decision.abstained.words
    told = routing(NOTHING_PUBLISHED, [Choice(None, math.nan, decision, decision.abstained)]).decisions[0]
    assert (told.score, told.confidence) == (None, None)


@pytest.mark.parametrize("token", get_args(Token))
def test_a_token_stands_in_a_list_and_in_a_label(token: str) -> None:
    assert token in TOKENS and token.isascii() and token.replace("-", "").isalpha()
