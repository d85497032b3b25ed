"""Ranges of learners and of replicas on a real Ray: up with the work, down after it, and nothing lost on the way."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence

import httpx
import pytest

from benchmarks.elastic.fixed_engine import start
from benchmarks.elastic.fixed_learner import trainings
from benchmarks.elastic.system import LEARNER, SimulatedSystem
from cluster.runtime import Runtime
from configs.loader import load

pytestmark = [pytest.mark.ray, pytest.mark.timeout(300)]

SETS = (
    "serving.port=0",
    "ray.num_cpus=8",
    "ingest.num_cpus=0",
    "ingest.held_out_fraction=0.25",
    "features.expansion=64",
    "learner.workers=0-3",
    "learner.idle_seconds=2",
    "learner.max_steps=20",
    "learner.evaluate_every=1",
    "serving.replicas=1-3",
    "serving.idle_seconds=2",
    "serving.max_num_seqs=4",
)


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SimulatedSystem]:
    settings = load("demo", [f"home={tmp_path_factory.mktemp('elastic')}", *SETS])
    with Runtime(settings, learner=LEARNER, start=start) as runtime:
        yield SimulatedSystem(settings, runtime.url)


def until(holds: Callable[[], bool], what: str, seconds: float = 120.0) -> None:
    deadline = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < deadline, f"not within {seconds:g} s: {what}"
        time.sleep(0.25)


def published(running: SimulatedSystem, domains: Sequence[str]) -> bool:
    states = running.states()
    return all(states.get(domain) == "published" for domain in domains)


def test_learners_come_with_the_backlog_and_go_with_it(running: SimulatedSystem) -> None:
    assert running.learners() == {}
    domains = [f"domain-{number}" for number in range(6)]
    running.feed(domains)
    until(lambda: len(running.learners()) == 3, "three learners")
    until(lambda: published(running, domains), "all are published")
    until(lambda: running.learners() == {}, "no learner is left")
    done = trainings(running.settings.home)
    assert Counter(each.domain for each in done) == Counter(domains), "each once"
    assert {each.learner for each in done} == {0, 1, 2}

    # One domain alone asks for one learner, and it is made anew from nothing.
    running.feed(["one-more"])
    until(lambda: published(running, ["one-more"]), "one more is published")
    assert len(running.learners()) <= 1
    assert trainings(running.settings.home)[-1].domain == "one-more"


async def test_replicas_come_with_the_load_and_go_without_a_failed_request(running: SimulatedSystem) -> None:
    clients, answered, failed = 12, 0, []

    async def ask(number: int, session: httpx.AsyncClient) -> None:
        nonlocal answered
        body = {"model": "base", "messages": [{"role": "user", "content": "one"}], "max_tokens": 20}
        while number < clients:
            answer = await session.post("/v1/chat/completions", json=body)
            answered += answer.status_code == 200
            if answer.status_code != 200:
                failed.append(f"{answer.status_code} {answer.text}")

    async def count() -> int:
        return len(await asyncio.to_thread(running.replicas))

    async def until_there_are(wanted: int, seconds: float = 120.0) -> None:
        deadline = time.monotonic() + seconds
        while (there := await count()) != wanted:
            assert time.monotonic() < deadline, f"expected {wanted} replicas within {seconds:g} s, there are {there}"
            await asyncio.sleep(0.25)

    assert await count() == 1
    async with httpx.AsyncClient(base_url=running.url, timeout=60) as session:
        asking = [asyncio.create_task(ask(number, session)) for number in range(clients)]
        try:
            await until_there_are(3)
            clients = 1
            await until_there_are(1)
            before = answered
            await asyncio.sleep(1.0)
        finally:
            clients = 0
            await asyncio.gather(*asking)
    assert failed == []
    assert answered > before > 24
