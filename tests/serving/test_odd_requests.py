"""Requests that are odd in one way: answered in one line, nothing echoed at length, nobody else the worse for it."""

import asyncio
import random
from typing import Any

import httpx
import numpy as np
import pytest
import pytest_asyncio
from fastapi import FastAPI

from serving.error_answers import add_error_answers
from serving.errors import Refused
from serving.openai_body import error_body
from serving.score_queue import ScoreQueue
from serving.scorer import Decision, Scorer
from serving.selection import Choice, routing, stamp
from serving.served import NOTHING_PUBLISHED
from serving.service import RoutedService
from serving.wording import MAX_CHARACTERS
from tests.serving.conftest import WORDS
from tests.serving.publisher import Publisher, WordFeatures, claimed, rule, word_router


@pytest_asyncio.fixture
async def cast(service: RoutedService, publisher: Publisher) -> None:
    publisher.publish([publisher.adapter(domain, 1) for domain in WORDS], word_router(WORDS))
    await service.catch_up()


@pytest.mark.parametrize(
    "model", ["\x00", "cats\x00", " cats", "CATS", "x" * 1_000_000, "auto\n", "cats@", "../cats", "\ud7ff\ue000", "%63"]
)
async def test_a_model_of_any_text_is_none_of_ours(client: httpx.AsyncClient, cast: None, model: str) -> None:
    for path, body in (("completions", {"prompt": "x"}), ("chat/completions", {"messages": [{"role": "user"}]})):
        answer = await client.post(f"/v1/{path}", json={"model": model, **body})
        assert answer.status_code == 404 and len(answer.content) < 4 * MAX_CHARACTERS


@pytest.mark.parametrize("domain", ["%00", "a%0d%0ax-evil:1", "a%2fb", "%25", "..%2f..", "a" * 5_000, "%F0%9F%98%80"])
async def test_a_domain_of_any_name_is_not_known(client: httpx.AsyncClient, domain: str) -> None:
    commands = [("DELETE", ""), ("POST", "/pin"), ("POST", "/rollback"), ("POST", "/unpin"), ("POST", "/learn")]
    for verb, end in commands:
        answer = await client.request(verb, f"/v1/domains/{domain}{end}")
        assert answer.status_code == 404 and len(answer.content) < 4 * MAX_CHARACTERS
        assert "x-evil" not in answer.headers


async def test_no_field_of_an_error_is_echoed_at_length() -> None:
    app = FastAPI()
    add_error_answers(app, lambda _: None)

    @app.get("/")
    async def fail() -> None:
        raise Refused(400, error_body("x", "BadRequestError", 400, "k" * 1_000_000))

    async with httpx.AsyncClient(transport=httpx.ASGITransport(app=app), base_url="http://x") as client:
        answer = await client.get("/")
    assert answer.status_code == 400 and answer.json()["error"]["param"].startswith("kkk")
    assert len(answer.content) < 2 * MAX_CHARACTERS


@pytest.mark.parametrize("score", [float("nan"), float("inf"), float("-inf")])
def test_a_score_that_is_no_number_is_none_in_header_and_body(score: float) -> None:
    choices = [Choice(None, score, Decision({"cats": score}, score)), Choice(None, 0.5, Decision({}, 0.5))]
    assert stamp(NOTHING_PUBLISHED, choices)["x-anabranch-score"] == ",0.500000"
    assert "x-anabranch-score" not in stamp(NOTHING_PUBLISHED, choices[:1])
    told = routing(NOTHING_PUBLISHED, choices).decisions
    assert [decision.score for decision in told] == [decision.confidence for decision in told] == [None, 0.5]
    assert told[0].scores == {}


@pytest.mark.parametrize("seed", range(5))
async def test_whoever_leaves_at_any_time_takes_nobody_with_him(seed: int) -> None:
    """Hundreds of callers with a real thread, a third cancelled, some of bad texts, scorers changing."""
    chance = random.Random(seed)

    class Fussy(WordFeatures):
        def extract(self, texts: list[str]) -> np.ndarray:  # type: ignore[override]
            if any("bad" in text for text in texts):
                raise ValueError("bad")
            return super().extract(texts)

    queue = ScoreQueue(8, 3)
    scorers = [Scorer(Fussy(list(WORDS.values())), rule(word_router(WORDS))) for _ in range(3)]
    asked: list[tuple[list[str], asyncio.Task[Any]]] = []
    for _ in range(300):
        texts = chance.choices([*WORDS.values(), "moo", "bad"], [8, 8, 8, 1], k=chance.randrange(1, 9))
        asked.append((texts, asyncio.ensure_future(queue.route(chance.choice(scorers), texts))))
        if chance.random() < 0.4:
            chance.choice(asked)[1].cancel()
        if chance.random() < 0.3:
            await asyncio.sleep(0)
    done = await asyncio.wait_for(asyncio.gather(*(task for _, task in asked), return_exceptions=True), 60)
    domains = {"meow": "cats", "woof": "dogs", "moo": None}
    for (texts, _), outcome in zip(asked, done, strict=True):
        if isinstance(outcome, BaseException):
            assert isinstance(outcome, asyncio.CancelledError) or "bad" in texts
        else:
            assert [claimed(decision) for decision in outcome] == [domains[text] for text in texts]
    queue.close()
