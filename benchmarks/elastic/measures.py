"""What is measured: trainings of a backlog, a range of learners from none to none, answers under a closed loop."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from itertools import pairwise
from pathlib import Path
from typing import Any

import httpx

from benchmarks.elastic.fixed_engine import TOKEN_S
from benchmarks.elastic.fixed_learner import STEP_S, FixedTraining, trainings
from benchmarks.elastic.system import SimulatedSystem, system

_WARM = "warm"
"""A domain that is learned before anything is measured: what is loaded at the first of all is loaded then."""
_PATIENCE_S = 240.0
_CLIENTS_A_SLOT = 3
_LEARNS_QUICKLY = "learner.max_steps=2"


def learners(address: str, home: Path, count: int, domains: int, seconds: float) -> dict[str, Any]:
    """A backlog of closed domains by `count` learners: trainings a second, from the first beginning to the last end."""
    sets = [f"learner.workers={count}", f"learner.max_steps={_steps(seconds)}", "serving.num_cpus=0"]
    names = [f"domain-{number}" for number in range(domains)]
    with system(address, home, sets) as running:
        _learn(running, [_WARM])
        running.feed(names)
        _until(lambda: _published(running, names), "all are published")
        done = [each for each in trainings(home) if each.domain != _WARM]
    took = max(each.ended for each in done) - min(each.began for each in done)
    return {
        "learners": count,
        "domains": domains,
        "training_seconds": seconds,
        "seconds": round(took, 3),
        "rate": round(len(done) / took, 5),
        "idle_between_seconds": _idle(done),
        "repeated": len(done) - domains,
    }


def ranged(address: str, home: Path, most: int, domains: int, seconds: float, idle_seconds: float) -> dict[str, Any]:
    """A range of learners from zero with a backlog: seconds until they learn, and until there are none again."""
    sets = [
        f"learner.workers=0-{most}",
        f"learner.idle_seconds={idle_seconds}",
        f"learner.max_steps={_steps(seconds)}",
        "serving.num_cpus=0",
    ]
    names = [f"domain-{number}" for number in range(domains)]
    with system(address, home, sets) as running:
        if before := running.learners():
            raise SystemExit(f"expected no learner where nothing waits, got {before}")
        fed = time.time()
        running.feed(names)
        _until(lambda: _published(running, names), "all are published")
        published = time.time()
        _until(lambda: not running.learners(), "no learner is left")
        gone = time.time()
    done = trainings(home)
    begun = sorted(min(each.began for each in done if each.learner == number) for number in {e.learner for e in done})
    ended = max(each.ended for each in done)
    return {
        "range": f"0-{most}",
        "domains": domains,
        "training_seconds": seconds,
        "idle_seconds": idle_seconds,
        "fed_to_learning_seconds": [round(each - fed, 2) for each in begun],
        "fed_to_published_seconds": round(published - fed, 2),
        "last_training_to_none_seconds": round(gone - ended, 2),
        "repeated": len(done) - domains,
    }


def replicas(address: str, home: Path, count: int, seconds: float, answer_seconds: float) -> dict[str, Any]:
    """Answers a second by `count` replicas while each of their slots has several clients waiting for it."""
    sets = [f"serving.replicas={count}", "serving.num_cpus=1", "learner.num_cpus=0", _LEARNS_QUICKLY]
    with system(address, home, sets) as running:
        _learn(running, [_WARM])
        _until(lambda: _count(running) == count, "all replicas are there")
        slots = count * running.settings.serving.max_num_seqs
        body = {
            "model": _WARM,
            "messages": [{"role": "user", "content": "one"}],
            "max_tokens": round(answer_seconds / TOKEN_S),
        }
        ends, failed = asyncio.run(_closed_loop(running.url, body, _CLIENTS_A_SLOT * slots, seconds))
    return {
        "replicas": count,
        "clients": _CLIENTS_A_SLOT * slots,
        "answer_seconds": answer_seconds,
        "answers": len(ends),
        "failed": failed,
        "rate": round(len(ends) / seconds, 3),
        "bound": round(slots / answer_seconds, 3),
    }


async def _closed_loop(url: str, body: Mapping[str, Any], clients: int, seconds: float) -> tuple[Sequence[float], int]:
    """The ends of answers within a stretch of so many seconds, in which all clients ask one after another, and how many
    requests failed at any time. It begins when the slowest client has had an answer, and one more length of time has
    passed, so that beginnings are spread over it."""
    ends: list[float] = []
    failed = 0
    answered: set[int] = set()
    over = asyncio.Event()
    limits = httpx.Limits(max_connections=None, max_keepalive_connections=None)

    async with httpx.AsyncClient(base_url=url, timeout=120, limits=limits) as session:

        async def ask(number: int) -> None:
            nonlocal failed
            while not over.is_set():
                try:
                    answer = await session.post("/v1/chat/completions", json=body)
                    failed += answer.status_code != 200
                except httpx.HTTPError:
                    failed += 1
                else:
                    ends.append(time.monotonic())
                    answered.add(number)

        asking = [asyncio.create_task(ask(number)) for number in range(clients)]
        while len(answered) < clients:
            await asyncio.sleep(0.1)
        await asyncio.sleep(5.0)
        began = time.monotonic()
        await asyncio.sleep(seconds)
        over.set()
        await asyncio.gather(*asking)
    return [end for end in ends if began <= end < began + seconds], failed


def _learn(running: SimulatedSystem, domains: Sequence[str]) -> None:
    running.feed(domains)
    _until(lambda: _published(running, domains), f"{', '.join(domains)}: published")


def _published(running: SimulatedSystem, domains: Sequence[str]) -> bool:
    states = running.states()
    return all(states.get(domain) == "published" for domain in domains)


def _count(running: SimulatedSystem) -> int:
    return len(running.replicas())


def _until(holds: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + _PATIENCE_S
    while time.monotonic() < deadline:
        # A status that does not come in time is asked for again.
        with suppress(httpx.HTTPError):
            if holds():
                return
        time.sleep(0.5)
    raise SystemExit(f"expected within {_PATIENCE_S:g} s: {what}")


def _steps(seconds: float) -> int:
    return round(seconds / STEP_S)


def _idle(done: Sequence[FixedTraining]) -> list[float]:
    """Seconds between the end of a training and the beginning of the next one of the same learner, each."""
    gaps: list[float] = []
    for number in sorted({each.learner for each in done}):
        own = sorted((each for each in done if each.learner == number), key=lambda each: each.began)
        gaps += [round(after.began - before.ended, 3) for before, after in pairwise(own)]
    return gaps
