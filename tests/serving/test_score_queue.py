"""Scoring off the loop: batches, isolation of faults, cancellation."""

import asyncio
import threading
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest

from learning.errors import LearningError
from serving.errors import Unavailable
from serving.score_queue import ScoreQueue
from serving.scorer import Scorer
from tests.serving.publisher import WordFeatures, claimed, rule, word_router

WORDS = {"cats": "meow", "dogs": "woof"}


class WatchedFeatures(WordFeatures):
    """Remembers its batches, waits for leave, and chokes on one word."""

    def __init__(self) -> None:
        super().__init__(list(WORDS.values()))
        self.batches: list[int] = []
        self.leave = threading.Event()
        self.threads: set[str] = set()
        self.cancels: asyncio.Task[Any] | None = None

    def extract(self, texts: Sequence[str]) -> np.ndarray:
        self.leave.wait(5)
        self.batches.append(len(texts))
        self.threads.add(threading.current_thread().name)
        if self.cancels is not None and "poison" in texts:
            self.cancels.get_loop().call_soon_threadsafe(self.cancels.cancel)
        if "poison" in texts:
            raise LearningError("no tokens")
        return super().extract(texts)


@pytest.fixture
def features() -> WatchedFeatures:
    return WatchedFeatures()


@pytest.fixture
def scorer(features: WatchedFeatures) -> Scorer:
    return Scorer(features, rule(word_router(WORDS)))


async def test_what_gathers_while_the_thread_is_busy_is_one_batch(features: WatchedFeatures, scorer: Scorer) -> None:
    queue = ScoreQueue(max_texts=6)
    asked = [asyncio.create_task(queue.route(scorer, ["meow"])) for _ in range(1)]
    await asyncio.sleep(0.02)
    asked += [asyncio.create_task(queue.route(scorer, ["woof", "moo"])) for _ in range(5)]
    await asyncio.sleep(0.02)
    features.leave.set()
    answers = await asyncio.gather(*asked)
    assert features.batches == [1, 6, 4]
    assert [[claimed(d) for d in answer] for answer in answers] == [["cats"]] + [["dogs", None]] * 5
    assert len(features.threads) == 1 and "MainThread" not in features.threads


async def test_one_bad_text_fails_its_own_request_only(features: WatchedFeatures, scorer: Scorer) -> None:
    queue = ScoreQueue()
    asked = [asyncio.create_task(queue.route(scorer, [text])) for text in ("meow", "poison", "woof")]
    features.leave.set()
    good, bad, other = await asyncio.gather(*asked, return_exceptions=True)
    assert isinstance(bad, LearningError)
    assert claimed(good[0]) == "cats" and claimed(other[0]) == "dogs"


async def test_a_request_of_many_texts_is_scored_in_turn_with_the_others(
    features: WatchedFeatures, scorer: Scorer
) -> None:
    queue = ScoreQueue(max_texts=8, slice_texts=4)
    order: list[str] = []

    async def ask(name: str, count: int) -> list[str | None]:
        decisions = await queue.route(scorer, ["meow", "woof"] * (count // 2))
        order.append(name)
        return [claimed(decision) for decision in decisions]

    asked = [asyncio.create_task(ask("large", 400)), asyncio.create_task(ask("larger", 800))]
    await asyncio.sleep(0)
    asked += [asyncio.create_task(ask(name, 2)) for name in ("small", "tiny")]
    features.leave.set()
    answers = await asyncio.gather(*asked)
    assert order == ["small", "tiny", "large", "larger"]
    assert answers == [["cats", "dogs"] * count for count in (200, 400, 1, 1)]
    assert max(features.batches) <= 8


async def test_a_cancelled_request_beside_a_refused_one_leaves_nobody_waiting(
    features: WatchedFeatures, scorer: Scorer
) -> None:
    queue = ScoreQueue()
    busy = asyncio.create_task(queue.route(scorer, ["meow"]))
    await asyncio.sleep(0)
    asked = [asyncio.create_task(queue.route(scorer, [text])) for text in ("meow", "poison", "woof", "meow")]
    await asyncio.sleep(0)
    # One of the others leaves while their batch is being scored and found to hold a text that must be refused.
    features.cancels = asked[0]
    features.leave.set()
    await busy
    answers = await asyncio.wait_for(asyncio.gather(*asked, return_exceptions=True), 5)
    assert isinstance(answers[0], asyncio.CancelledError) and isinstance(answers[1], LearningError)
    assert [claimed(answer[0]) for answer in answers[2:]] == ["dogs", "cats"]


async def test_closing_ends_those_who_wait_and_those_who_come(features: WatchedFeatures, scorer: Scorer) -> None:
    queue = ScoreQueue()
    asked = [asyncio.create_task(queue.route(scorer, [text])) for text in ("meow", "woof")]
    await asyncio.sleep(0)
    queue.close()
    for task in (*asked, asyncio.create_task(queue.route(scorer, ["meow"]))):
        with pytest.raises(Unavailable):
            await task
    features.leave.set()


async def test_two_manifests_are_not_mixed(features: WatchedFeatures, scorer: Scorer) -> None:
    queue = ScoreQueue()
    other = Scorer(features, rule(word_router(WORDS).restrict(["dogs"])))
    features.leave.set()
    ours, theirs = await asyncio.gather(queue.route(scorer, ["meow"]), queue.route(other, ["meow"]))
    assert claimed(ours[0]) == "cats" and claimed(theirs[0]) is None


async def test_a_cancelled_request_does_not_disturb_the_rest(features: WatchedFeatures, scorer: Scorer) -> None:
    queue = ScoreQueue()
    first, second = (asyncio.create_task(queue.route(scorer, [text])) for text in ("meow", "woof"))
    await asyncio.sleep(0.02)
    first.cancel()
    features.leave.set()
    assert claimed((await second)[0]) == "dogs"
    assert claimed((await queue.route(scorer, ["meow"]))[0]) == "cats"


def test_a_score_that_is_no_number_chooses_nobody() -> None:
    class Broken(WordFeatures):
        def extract(self, texts: Sequence[str]) -> np.ndarray:
            return np.full((len(texts), 2), np.nan)

    decision = Scorer(Broken(["meow", "woof"]), rule(word_router(WORDS))).route(["meow"])[0]
    assert claimed(decision) is None and decision.abstained is not None


def test_no_texts_no_decisions(scorer: Scorer) -> None:
    assert scorer.route([]) == []
