"""Any course of requests, refusals, cancellations and an end: everybody gets an answer, and nobody somebody else's."""

from __future__ import annotations

import asyncio
import itertools
import threading
from collections.abc import Sequence
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from learning.errors import LearningError
from serving.errors import ScoringFailed, Unavailable
from serving.score_queue import ScoreQueue
from serving.scorer import Decision
from tests.serving.publisher import claimed

FAULTS: dict[str, BaseException] = {
    "refused": LearningError("no tokens"),
    "broken": ValueError("broken"),
    "stop": StopIteration(),
    "exit": SystemExit(1),
    "gone": asyncio.CancelledError(),
}
SHORT = "short"
ENDS = (LearningError, ValueError, ScoringFailed, Unavailable)


class Scorer:
    """Decides that a text belongs to `name text`, fails on the words of FAULTS, and waits for leave to score."""

    def __init__(self, name: str, leave: threading.Semaphore) -> None:
        self.name, self.leave = name, leave
        self.batches: list[int] = []

    def route(self, texts: Sequence[str]) -> list[Decision]:
        self.leave.acquire(timeout=5)
        self.batches.append(len(texts))
        for text in texts:
            if (fault := FAULTS.get(text.split()[0])) is not None:
                raise fault
        decisions = [Decision({f"{self.name} {text}": 1.0}, 1.0) for text in texts]
        return decisions[1:] if any(text.split()[0] == SHORT for text in texts) else decisions


WORD = st.sampled_from(["x"] * 12 + [*FAULTS, SHORT])
STEP = st.one_of(
    st.tuples(st.just("ask"), st.integers(0, 1), st.lists(WORD, max_size=7)),
    st.tuples(st.just("cancel"), st.integers(0, 30)),
    st.tuples(st.just("leave"), st.integers(1, 3)),
    st.just(("close",)),
)


def ask_often(course: list[Any]) -> list[Any]:
    """A queue that is closed at once shows little: the end comes late, if it comes."""
    closes = [step for step in course if step[0] == "close"]
    return [step for step in course if step[0] != "close"] + closes[:1]


@settings(max_examples=60, deadline=None)
@given(course=st.lists(STEP, max_size=25), early_close=st.booleans())
def test_everybody_gets_an_end_and_nobody_anothers_answer(course: list[Any], early_close: bool) -> None:
    asyncio.run(asyncio.wait_for(play(course if early_close else ask_often(course)), 20))


async def play(course: list[Any]) -> None:
    leave = threading.Semaphore(0)
    scorers = [Scorer("a", leave), Scorer("b", leave)]
    queue = ScoreQueue(max_texts=5, slice_texts=2)
    asked: list[tuple[asyncio.Task[list[Decision]], Scorer, list[str]]] = []
    cancelled: set[asyncio.Task[list[Decision]]] = set()
    numbers = itertools.count()
    for step in course:
        if step[0] == "ask":
            texts = [f"{word} {next(numbers)}" for word in step[2]]
            task = asyncio.create_task(queue.route(scorers[step[1]], texts))  # type: ignore[arg-type]
            asked.append((task, scorers[step[1]], texts))
        elif step[0] == "cancel" and asked:
            task = asked[step[1] % len(asked)][0]
            if task.cancel():
                cancelled.add(task)
        elif step[0] == "leave":
            leave.release(step[1])
        elif step[0] == "close":
            queue.close()
        await asyncio.sleep(0)
    leave.release(10_000)
    answers = await asyncio.gather(*(task for task, _, _ in asked), return_exceptions=True)
    closed = any(step[0] == "close" for step in course)
    for (task, scorer, texts), answer in zip(asked, answers, strict=True):
        words = {text.split()[0] for text in texts}
        if isinstance(answer, list):
            assert [claimed(decision) for decision in answer] == [f"{scorer.name} {text}" for text in texts]
            assert words <= {"x"}
        elif isinstance(answer, asyncio.CancelledError):
            assert task in cancelled
        elif isinstance(answer, Unavailable):
            assert closed
        else:
            # Its own fault, and of a kind that it has asked for.
            assert isinstance(answer, ENDS) and words & {*FAULTS, SHORT}
            assert not isinstance(answer, LearningError) or "refused" in words
    assert all(batch <= 5 for scorer in scorers for batch in scorer.batches)
    if not closed:
        last = await queue.route(scorers[0], ["x last"])  # type: ignore[arg-type]
        assert claimed(last[0]) == "a x last"
        queue.close()
