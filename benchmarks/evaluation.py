"""Asking a running service and counting: exact match, routing accuracy, failures. Knows HTTP and its bodies only.

Used by the demo and the benchmarks, so that what they report is what a client gets.
"""

from __future__ import annotations

import asyncio
import json
import random
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import httpx

from serving.api import SystemStatus

_STATUS_PATIENCE_S = 60.0
_STATUS_PAUSE_S = 1.0


@dataclass(frozen=True)
class Question:
    """A test prompt, the domain it belongs to, and the one right answer."""

    domain: str
    prompt: str
    completion: str


@dataclass(frozen=True)
class Outcome:
    """What came back: the text, who spoke, and the seconds it took; `status` 0 means no answer at all."""

    status: int
    text: str = ""
    domain: str = ""
    adapter: str = ""
    manifest: int = 0
    score: float | None = None
    seconds: float = 0.0


@dataclass(frozen=True)
class Accuracy:
    """Fractions over the questions asked, and the requests that failed."""

    exact_match: float
    routed_right: float
    failed: int


def read_questions(path: Path, limit: int | None = None) -> list[Question]:
    """Return the questions of a JSONL of records or of `{task, input, output}` rows."""
    questions = []
    for line in path.read_bytes().splitlines():
        row = json.loads(line)
        if "input" in row:
            questions.append(Question(row["task"] or "", row["input"], row["output"] or ""))
        else:
            questions.append(Question(row["domain"], row["prompt"], row["completion"]))
    return questions[:limit]


class Asker:
    """Asks the service at `url`, at most `concurrency` questions at a time, greedily and up to `max_tokens` tokens."""

    def __init__(self, url: str, *, max_tokens: int, concurrency: int = 16) -> None:
        self.url, self._max_tokens = url, max_tokens
        self._slots = asyncio.Semaphore(concurrency)
        self._http = httpx.AsyncClient(base_url=url, timeout=300, limits=httpx.Limits(max_connections=concurrency))

    async def ask(self, question: Question, model: str) -> Outcome:
        """Ask one question of a model (`auto`, `base`, a domain or a version)."""
        body = {
            "model": model,
            "messages": [{"role": "user", "content": question.prompt}],
            "temperature": 0,
            "max_tokens": self._max_tokens,
        }
        async with self._slots:
            started = time.monotonic()
            try:
                answer = await self._http.post("/v1/chat/completions", json=body)
            except httpx.HTTPError:
                return Outcome(0, seconds=time.monotonic() - started)
        seconds = time.monotonic() - started
        if answer.status_code != 200:
            return Outcome(answer.status_code, answer.text, seconds=seconds)
        headers = answer.headers
        score = headers.get("x-anabranch-score")
        return Outcome(
            answer.status_code,
            answer.json()["choices"][0]["message"]["content"] or "",
            headers["x-anabranch-domain"],
            headers["x-anabranch-adapter"],
            int(headers["x-anabranch-manifest"]),
            float(score) if score else None,
            seconds,
        )

    async def ask_all(self, questions: Sequence[Question], model: str | None) -> list[Outcome]:
        """Ask all questions of one model; None asks each of the domain it belongs to."""
        return list(await asyncio.gather(*(self.ask(q, model or q.domain) for q in questions)))

    async def status(self) -> SystemStatus:
        """The whole system's state; asked again for a while where nobody has the time to answer. Raises
        httpx.HTTPError."""
        deadline = time.monotonic() + _STATUS_PATIENCE_S
        while (answer := await self._http.get("/v1/status", timeout=60)).status_code == 503:
            if time.monotonic() >= deadline:
                break
            await asyncio.sleep(_STATUS_PAUSE_S)
        answer.raise_for_status()
        return SystemStatus.model_validate_json(answer.content)

    async def close(self) -> None:
        """Close the connections."""
        await self._http.aclose()


def score(questions: Sequence[Question], replies: Sequence[Outcome]) -> Accuracy:
    """Count exact answers and right routes; a failed request is neither."""
    pairs = list(zip(questions, replies, strict=True))
    return Accuracy(
        exact_match=sum(r.status == 200 and r.text == q.completion for q, r in pairs) / len(pairs),
        routed_right=sum(r.status == 200 and r.domain == q.domain for q, r in pairs) / len(pairs),
        failed=sum(r.status != 200 for _, r in pairs),
    )


@dataclass
class SteadyClient:
    """A user who keeps asking questions of all domains with `model="auto"`, one at a time, until stopped."""

    asker: Asker
    questions: Sequence[Question]
    pause_s: float = 0.5
    asked: int = 0
    failures: list[Outcome] = field(default_factory=list)
    manifests: set[int] = field(default_factory=set)
    _stop: asyncio.Event = field(default_factory=asyncio.Event)

    async def run(self, seed: int = 0) -> None:
        """Ask until `stop`."""
        chance = random.Random(seed)
        while not self._stop.is_set():
            reply = await self.asker.ask(chance.choice(self.questions), "auto")
            self.asked += 1
            if reply.status != 200:
                self.failures.append(reply)
            else:
                self.manifests.add(reply.manifest)
            await asyncio.sleep(self.pause_s)

    def stop(self) -> None:
        """Let `run` end after the question under way."""
        self._stop.set()
