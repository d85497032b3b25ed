"""Scoring beside the event loop: one thread, which takes everything that has gathered while it was busy as one batch.

Knows texts and scorers only. Features don't depend on their batch, so neither do decisions.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from serving.scorer import Decision, Scorer


@dataclass(frozen=True)
class _Waiting:
    scorer: Scorer
    texts: Sequence[str]
    decisions: asyncio.Future[list[Decision]]


class ScoreQueue:
    """`max_texts` bounds one batch, and with it the time that a newcomer waits."""

    def __init__(self, max_texts: int = 64) -> None:
        self._max_texts = max_texts
        self._waiting: list[_Waiting] = []
        self._worker: asyncio.Task[None] | None = None
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="scorer")

    async def route(self, scorer: Scorer, texts: Sequence[str]) -> list[Decision]:
        """`scorer.route(texts)`, off the loop. Raises what the scorer raises."""
        decisions: asyncio.Future[list[Decision]] = asyncio.get_running_loop().create_future()
        self._waiting.append(_Waiting(scorer, texts, decisions))
        if self._worker is None or self._worker.done():
            self._worker = asyncio.create_task(self._work())
        return await decisions

    def close(self) -> None:
        self._thread.shutdown(wait=False, cancel_futures=True)

    async def _work(self) -> None:
        loop = asyncio.get_running_loop()
        while batch := self._next_batch():
            texts = [text for waiting in batch for text in waiting.texts]
            try:
                decisions = await loop.run_in_executor(self._thread, batch[0].scorer.route, texts)
            except Exception as error:
                await self._one_by_one(batch, error)
                continue
            for waiting in batch:
                own, decisions = decisions[: len(waiting.texts)], decisions[len(waiting.texts) :]
                if not waiting.decisions.done():
                    waiting.decisions.set_result(own)

    async def _one_by_one(self, batch: list[_Waiting], error: Exception) -> None:
        """One request's text must not fail its neighbours': each is scored alone and gets its own error."""
        loop = asyncio.get_running_loop()
        for waiting in batch:
            if waiting.decisions.done():
                continue
            if len(batch) == 1:
                waiting.decisions.set_exception(error)
                continue
            try:
                own = await loop.run_in_executor(self._thread, waiting.scorer.route, waiting.texts)
            except Exception as own_error:
                waiting.decisions.set_exception(own_error)
            else:
                waiting.decisions.set_result(own)

    def _next_batch(self) -> list[_Waiting]:
        """The longest run of requests that wait for the same scorer and fit; at least one if any waits."""
        self._waiting = [waiting for waiting in self._waiting if not waiting.decisions.done()]
        batch: list[_Waiting] = []
        texts = 0
        for waiting in self._waiting:
            texts += len(waiting.texts)
            if batch and (waiting.scorer is not batch[0].scorer or texts > self._max_texts):
                break
            batch.append(waiting)
        del self._waiting[: len(batch)]
        return batch
