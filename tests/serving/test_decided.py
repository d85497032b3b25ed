"""Decisions that are remembered: equal ones, of one scorer, within their bound."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import Sequence
from typing import Any

import httpx
import pytest

from learning.errors import LearningError
from registry.adapters import Adapter
from serving.decided import RememberedScoring
from serving.scorer import Decision, Scorer
from serving.service import RoutedService
from tests.serving.publisher import Publisher, WordFeatures, rule, word_router

WORDS = {"cats": "meow", "dogs": "woof"}


class Direct:
    """Scores at once, and remembers what it was asked for."""

    def __init__(self) -> None:
        self.asked: list[list[str]] = []

    async def route(self, scorer: Scorer, texts: Sequence[str]) -> list[Decision]:
        self.asked.append(list(texts))
        await asyncio.sleep(0)
        if "poison" in texts:
            raise LearningError("no tokens")
        return scorer.route(texts)


def scorer(**words: str) -> Scorer:
    return Scorer(WordFeatures(list(WORDS.values())), rule(word_router(WORDS).restrict(sorted(words or WORDS))))


@pytest.fixture
def counts() -> list[int]:
    return [0, 0]


@pytest.fixture
def direct() -> Direct:
    return Direct()


@pytest.fixture
def scoring(direct: Direct, counts: list[int]) -> RememberedScoring:
    def told(known: int, scored: int) -> None:
        counts[0] += known
        counts[1] += scored

    return RememberedScoring(direct, told, max_bytes=10_000)


async def test_what_is_known_is_not_scored_again_and_is_the_same(
    scoring: RememberedScoring, direct: Direct, counts: list[int]
) -> None:
    ours = scorer()
    first = await scoring.route(ours, ["meow", "woof", "meow", "woof woof", "\ud800"])
    again = await scoring.route(ours, ["woof woof", "new", "meow", "\ud800"])
    assert direct.asked == [["meow", "woof", "woof woof", "\ud800"], ["new"]] and counts == [4, 5]
    assert first == ours.route(["meow", "woof", "meow", "woof woof", "\ud800"])
    assert again == ours.route(["woof woof", "new", "meow", "\ud800"])
    assert await scoring.route(ours, []) == []


@pytest.mark.slow
async def test_another_scorer_knows_nothing_of_it(scoring: RememberedScoring, direct: Direct) -> None:
    ours, theirs = scorer(), scorer(dogs="woof")
    assert (await scoring.route(ours, ["meow"]))[0].scores == {"cats": 1.0, "dogs": 0.0}
    assert (await scoring.route(theirs, ["meow"]))[0].scores == {"dogs": 0.0}
    assert direct.asked == [["meow"], ["meow"]]
    del ours
    gc.collect()
    assert len(scoring._of) == 1, "what is remembered goes with its scorer"


async def test_a_failure_is_not_remembered(scoring: RememberedScoring, direct: Direct) -> None:
    ours = scorer()
    for _ in range(2):
        with pytest.raises(LearningError):
            await scoring.route(ours, ["meow", "poison"])
    assert direct.asked == [["meow", "poison"]] * 2


async def test_memory_is_bounded_and_what_is_asked_for_stays(scoring: RememberedScoring, direct: Direct) -> None:
    ours = scorer()
    for number in range(100):
        await scoring.route(ours, [f"meow {number}", "meow"])
    assert sum("meow" in asked for asked in direct.asked) == 1
    assert scoring._of[ours].bytes <= 10_000
    await scoring.route(ours, ["meow 0"])
    assert direct.asked[-1] == ["meow 0"]


async def test_a_publication_forgets_and_metrics_count(
    client: httpx.AsyncClient, service: RoutedService, publisher: Publisher, cast: dict[str, Adapter]
) -> None:
    async def ask() -> Any:
        return (await client.post("/v1/completions", json={"prompt": "meow"})).headers["x-anabranch-domain"]

    assert [await ask(), await ask()] == ["cats", "cats"]
    publisher.publish([cast["dogs"]], word_router(WORDS))
    await service.catch_up()
    assert await ask() == "base", "the cats are gone"
    told = (await client.get("/metrics")).text
    assert 'anabranch_decisions_total{how="known"} 1.0' in told
    assert 'anabranch_decisions_total{how="scored"} 2.0' in told
