"""Scoring off the loop: batches, isolation of faults, cancellation."""

import asyncio
import threading
from collections.abc import Sequence

import numpy as np
import pytest

from learning.errors import LearningError
from serving.score_queue import ScoreQueue
from serving.scorer import Scorer
from tests.serving.publisher import WordFeatures, word_router

WORDS = {"cats": "meow", "dogs": "woof"}


class WatchedFeatures(WordFeatures):
    """Remembers its batches, waits for leave, and chokes on one word."""

    def __init__(self) -> None:
        super().__init__(list(WORDS.values()))
        self.batches: list[int] = []
        self.leave = threading.Event()
        self.threads: set[str] = set()

    def extract(self, texts: Sequence[str]) -> np.ndarray:
        self.leave.wait(5)
        self.batches.append(len(texts))
        self.threads.add(threading.current_thread().name)
        if "poison" in texts:
            raise LearningError("no tokens")
        return super().extract(texts)


@pytest.fixture
def features() -> WatchedFeatures:
    return WatchedFeatures()


@pytest.fixture
def scorer(features: WatchedFeatures) -> Scorer:
    return Scorer(features, word_router(WORDS), 0.5)


async def test_what_gathers_while_the_thread_is_busy_is_one_batch(features: WatchedFeatures, scorer: Scorer) -> None:
    queue = ScoreQueue(max_texts=6)
    asked = [asyncio.create_task(queue.route(scorer, ["meow"])) for _ in range(1)]
    await asyncio.sleep(0.02)
    asked += [asyncio.create_task(queue.route(scorer, ["woof", "moo"])) for _ in range(5)]
    await asyncio.sleep(0.02)
    features.leave.set()
    answers = await asyncio.gather(*asked)
    assert features.batches == [1, 6, 4]
    assert [[d.domain for d in answer] for answer in answers] == [["cats"]] + [["dogs", None]] * 5
    assert len(features.threads) == 1 and "MainThread" not in features.threads


async def test_one_bad_text_fails_its_own_request_only(features: WatchedFeatures, scorer: Scorer) -> None:
    queue = ScoreQueue()
    asked = [asyncio.create_task(queue.route(scorer, [text])) for text in ("meow", "poison", "woof")]
    features.leave.set()
    good, bad, other = await asyncio.gather(*asked, return_exceptions=True)
    assert isinstance(bad, LearningError)
    assert good[0].domain == "cats" and other[0].domain == "dogs"


async def test_two_manifests_are_not_mixed(features: WatchedFeatures, scorer: Scorer) -> None:
    queue = ScoreQueue()
    other = Scorer(features, word_router(WORDS).restrict(["dogs"]), 0.5)
    features.leave.set()
    ours, theirs = await asyncio.gather(queue.route(scorer, ["meow"]), queue.route(other, ["meow"]))
    assert ours[0].domain == "cats" and theirs[0].domain is None


async def test_a_cancelled_request_does_not_disturb_the_rest(features: WatchedFeatures, scorer: Scorer) -> None:
    queue = ScoreQueue()
    first, second = (asyncio.create_task(queue.route(scorer, [text])) for text in ("meow", "woof"))
    await asyncio.sleep(0.02)
    first.cancel()
    features.leave.set()
    assert (await second)[0].domain == "dogs"
    assert (await queue.route(scorer, ["meow"]))[0].domain == "cats"


def test_a_score_that_is_no_number_chooses_nobody() -> None:
    class Broken(WordFeatures):
        def extract(self, texts: Sequence[str]) -> np.ndarray:
            return np.full((len(texts), 2), np.nan)

    decision = Scorer(Broken(["meow", "woof"]), word_router(WORDS), 0.5).route(["meow"])[0]
    assert decision.domain is None


def test_no_texts_no_decisions(scorer: Scorer) -> None:
    assert scorer.route([]) == []
