"""Scoring beside the event loop: one thread, requests in turn, a slice of each at a time.

A request's texts are cut into slices, a batch takes one slice of each request that waits for the same scorer, and who
has texts left goes to the end of the line: a newcomer waits for one batch, whatever the others have asked for. Features
don't depend on their batch, so neither do decisions. Knows texts and scorers only.

There is no worker task that could be cancelled or die. Every way in which a batch can end leads to `_take_up`, which
hands on what it has and starts the next; whoever waits gets decisions or an error.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress

from serving.errors import ScoringFailed, Unavailable
from serving.scorer import Decision, Scorer


class _Request:
    """What one caller waits for: its texts, the decisions on the first of them, and where the whole goes."""

    def __init__(self, scorer: Scorer, texts: Sequence[str], answer: asyncio.Future[list[Decision]]) -> None:
        self.scorer, self.answer = scorer, answer
        self._texts = tuple(texts)
        self._decisions: list[Decision] = []

    def slice(self, size: int) -> Sequence[str]:
        """The next texts, at most `size`."""
        return self._texts[len(self._decisions) : len(self._decisions) + size]

    def take(self, outcome: list[Decision] | Exception) -> None:
        """Keep the decisions on the slice before, or end with its error. Nothing happens to a caller who has left."""
        if self.answer.done():
            return
        if isinstance(outcome, Exception):
            self.answer.set_exception(outcome)
            return
        self._decisions += outcome
        if len(self._decisions) == len(self._texts):
            self.answer.set_result(self._decisions)


class ScoreQueue:
    """`max_texts` bounds one batch, `slice_texts` what one request may have of it. Used on one event loop."""

    def __init__(self, max_texts: int = 64, slice_texts: int = 16) -> None:
        self._max_texts, self._slice_texts = max_texts, slice_texts
        self._line: deque[_Request] = deque()
        self._batch: list[_Request] = []
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="scorer")
        self._closed = False

    async def route(self, scorer: Scorer, texts: Sequence[str]) -> list[Decision]:
        """`scorer.route(texts)`, off the loop. Raises what that raises, ScoringFailed, or Unavailable once closed."""
        if self._closed:
            raise _closed()
        if not texts:
            return []
        request = _Request(scorer, texts, asyncio.get_running_loop().create_future())
        self._line.append(request)
        if not self._batch:
            self._score_next()
        return await request.answer

    def close(self) -> None:
        """End the thread after its batch; who waits gets Unavailable."""
        self._closed = True
        self._thread.shutdown(wait=False, cancel_futures=True)
        for request in (*self._batch, *self._line):
            request.take(_closed())
        self._line.clear()

    def _score_next(self) -> None:
        slices = self._next_slices()
        if not slices:
            return
        loop = asyncio.get_running_loop()
        try:
            scored = self._thread.submit(_score, self._batch[0].scorer, slices)
        except RuntimeError:  # The thread takes no more work: the interpreter is going down.
            self.close()
            return

        def done(scored: Future[list[list[Decision] | Exception]]) -> None:
            with suppress(RuntimeError):  # A loop that has closed has nobody waiting on it.
                loop.call_soon_threadsafe(self._take_up, scored)

        scored.add_done_callback(done)

    def _take_up(self, scored: Future[list[list[Decision] | Exception]]) -> None:
        batch, self._batch = self._batch, []
        outcomes: Sequence[list[Decision] | Exception]
        try:
            outcomes = scored.result()
        except BaseException as error:  # Broken off before it began, or no memory left to say what failed.
            outcomes = [_told(error)] * len(batch)
        for request, outcome in zip(batch, outcomes, strict=True):
            request.take(outcome)
        if not self._closed:
            self._line += batch
            self._score_next()

    def _next_slices(self) -> list[Sequence[str]]:
        """Make the next batch: those in line for the scorer of the first, in order, and a slice of each."""
        self._line = deque(request for request in self._line if not request.answer.done())
        slices: list[Sequence[str]] = []
        room, rest = self._max_texts, deque[_Request]()
        for request in self._line:
            if room and request.scorer is self._line[0].scorer:
                slices.append(request.slice(min(room, self._slice_texts)))
                room -= len(slices[-1])
                self._batch.append(request)
            else:
                rest.append(request)
        self._line = rest
        return slices


def _score(scorer: Scorer, slices: Sequence[Sequence[str]]) -> list[list[Decision] | Exception]:
    """In the thread: the decisions on each slice, or its error.

    One request's text must not fail its neighbours': where the whole fails, each slice is scored alone.
    """
    try:
        decisions = iter(_scored(scorer, [text for texts in slices for text in texts]))
        return [[next(decisions) for _ in texts] for texts in slices]
    except BaseException as error:
        if len(slices) == 1:
            return [_told(error)]
        return [outcome for texts in slices for outcome in _score(scorer, [texts])]


def _scored(scorer: Scorer, texts: Sequence[str]) -> list[Decision]:
    decisions = scorer.route(texts)
    if len(decisions) != len(texts):
        raise ScoringFailed(f"{len(texts)} texts were scored with {len(decisions)} decisions")
    return decisions


def _told(error: BaseException) -> Exception:
    """An error as a waiting caller may get it: what would end the loop, or can't be set on a future, is wrapped."""
    if isinstance(error, Exception) and not isinstance(error, StopIteration):
        return error
    return ScoringFailed(f"scoring ended with {type(error).__name__}")


def _closed() -> Unavailable:
    return Unavailable("this replica scores no more requests; it is stopping")
