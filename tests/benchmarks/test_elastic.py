"""The parts of the elastic benchmark that take a fixed time, its figures, and the page that shows them."""

from __future__ import annotations

import asyncio
import json
import time
from pathlib import Path

import pytest

from benchmarks.elastic.__main__ import COUNTS, RESULT, efficiency
from benchmarks.elastic.fixed_engine import FixedEngine
from benchmarks.elastic.fixed_learner import FixedLearner, FixedTraining, trainings
from benchmarks.elastic.measures import _idle
from benchmarks.elastic.report import PAGE, fill
from learning.contract import Example, Progress, TrainingJob
from learning.gate import Gate
from registry.adapters import AdapterFacts
from registry.registry import Registry


def test_a_training_takes_its_time_and_leaves_what_gate_and_registry_take(tmp_path: Path) -> None:
    rows = [Example(str(number), "prompt", "answer") for number in range(4)]
    job = TrainingJob("birds", 1, rows[:3], rows[3:], tmp_path / "work", 0)
    said: list[Progress] = []
    began = time.time()
    result = FixedLearner(3, 7, tmp_path / "trainings-7.jsonl").train(job, said.append)
    assert time.time() - began >= 0.3
    assert [each.step for each in said] == [1, 2, 3]
    result.check(job)
    assert Gate().decide(result).accepted
    facts = AdapterFacts(
        domain="birds",
        version=1,
        status="accepted",
        rank=result.adapters[0].rank,
        base_digest="b" * 64,
        learner="fixed",
        train_examples=3,
        held_out_examples=1,
        created_at="2026-01-01T00:00:00Z",  # type: ignore[arg-type]
    )
    Registry(tmp_path / "registry", writer=True).add_adapter("birds", 1, result.adapters[0].folder, facts).verify()
    (noted,) = trainings(tmp_path)
    assert (noted.domain, noted.learner) == ("birds", 7) and noted.ended - noted.began >= 0.3


async def test_an_engine_answers_so_many_at_once_and_no_more() -> None:
    engine = FixedEngine(2, 100)
    call = engine.parse("completion", {"model": "base", "prompt": "one", "max_tokens": 5})
    began = time.monotonic()
    ends: list[float] = []

    async def ask() -> None:
        answer = await engine.generate(call, None)
        assert isinstance(answer, dict) and answer["choices"][0]["text"] == "base"
        ends.append(time.monotonic() - began)

    await asyncio.gather(*(ask() for _ in range(6)))
    for place, least in enumerate((0.05, 0.05, 0.10, 0.10, 0.15, 0.15)):
        assert ends[place] >= least - 0.005, ends


def test_efficiency_is_the_rate_over_as_many_times_that_of_one() -> None:
    rates = [(1, 9.0), (2, 20.0), (4, 36.0), (4, 40.0), (2, 15.0), (1, 11.0)]
    found = efficiency([{"learners": count, "rate": rate} for count, rate in rates], "learners")
    assert found["1"] == {"median": 1.0, "each": [0.9, 1.1]}
    assert found["2"] == {"median": 0.875, "each": [1.0, 0.75]}
    assert found["4"] == {"median": 0.95, "each": [0.9, 1.0]}


def test_idle_is_between_trainings_of_one_learner() -> None:
    done = [
        FixedTraining("a", 0, 0.0, 2.0),
        FixedTraining("b", 1, 0.5, 2.5),
        FixedTraining("c", 0, 2.25, 4.0),
        FixedTraining("d", 1, 3, 4),
    ]
    assert _idle(done) == [0.25, 0.5]


@pytest.mark.parametrize("part", ["learners", "replicas"])
def test_twice_and_four_times_as_many_do_as_much_more(part: str) -> None:
    found = json.loads(RESULT.read_text())[part]
    for count in COUNTS:
        assert found["efficiency"][str(count)]["median"] >= 0.95
    assert found["efficiency"] == efficiency(found["runs"], part)
    assert not any(run.get("failed") or run.get("repeated") for run in found["runs"])


def test_the_page_says_what_the_result_does() -> None:
    page = PAGE.read_text()
    assert fill(page, json.loads(RESULT.read_text())) == page
