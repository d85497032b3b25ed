"""Clients that ask without pause while the system is attacked, and what became of each request."""

from __future__ import annotations

import asyncio
import itertools
import threading
import time
from dataclasses import dataclass
from typing import Any, Literal, Self

import httpx

Outcome = Literal["answered", "refused", "failed"]


@dataclass(frozen=True)
class Request:
    """One request: monotonic times, whether its answer is streamed, and what became of it.

    It is `refused` by a 503 that says when to come again, and `failed` in any other way: another 5xx, a connection that
    is cut, a stream that does not end as it should, an answer by another adapter than was asked for.
    """

    began: float
    ended: float
    is_streamed: bool
    outcome: Outcome
    words: str = ""


class Clients:
    """`count` of them, each asking one question after another, every third streamed, in a thread of their own.

    They ask by name for the domains of `models`, and for the base where one is not there yet.
    """

    def __init__(self, url: str, models: list[str], count: int = 4) -> None:
        self._url, self._models, self._count = url, models, count
        self.requests: list[Request] = []
        self._stop = threading.Event()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._run()), name="clients", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join(120)

    async def _run(self) -> None:
        async with httpx.AsyncClient(base_url=self._url, timeout=90) as client:
            await asyncio.gather(*(self._ask_on(client, number) for number in range(self._count)))

    async def _ask_on(self, client: httpx.AsyncClient, number: int) -> None:
        for turn in itertools.count(number):
            if self._stop.is_set():
                return
            model, is_streamed = self._models[turn % len(self._models)], turn % 3 == 0
            began = time.monotonic()
            outcome, words = await self._ask(client, model, is_streamed)
            self.requests.append(Request(began, time.monotonic(), is_streamed, outcome, words))
            await asyncio.sleep(1.0 if outcome == "refused" else 0.2)

    async def _ask(self, client: httpx.AsyncClient, model: str, is_streamed: bool) -> tuple[Outcome, str]:
        body: dict[str, Any] = {"model": model, "messages": [{"role": "user", "content": "who is it"}]}
        try:
            if is_streamed:
                return await self._read_stream(client, body | {"stream": True})
            answer = await client.post("/v1/chat/completions", json=body)
        except httpx.HTTPError as error:
            return "failed", f"{type(error).__name__}: {error}"
        return _judged(answer, model)

    async def _read_stream(self, client: httpx.AsyncClient, body: dict[str, Any]) -> tuple[Outcome, str]:
        async with client.stream("POST", "/v1/chat/completions", json=body) as answer:
            text = (await answer.aread()).decode()
        if answer.status_code == 200 and "[DONE]" not in text:
            return "failed", f"a stream without an end: {text[-200:]}"
        return _judged(answer, body["model"])


def _judged(answer: httpx.Response, model: str) -> tuple[Outcome, str]:
    if answer.status_code == 200:
        by = answer.headers.get("x-anabranch-adapter", "")
        is_right = by.partition("@")[0] == model
        return ("answered", by) if is_right else ("failed", f"{model} was answered by {by!r}")
    if answer.status_code == 503 and "retry-after" in answer.headers:
        return "refused", answer.text[:200]
    # A domain that is not published yet is none that can be asked for.
    return ("answered", "") if answer.status_code == 404 else ("failed", f"{answer.status_code}: {answer.text[:200]}")
