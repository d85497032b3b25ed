"""Courses run in other ways: judged by generated answers, and by processes beside this one."""

from __future__ import annotations

import json
import time
from contextlib import suppress
from dataclasses import replace
from multiprocessing import get_context
from pathlib import Path

import psutil
import pytest
from rich.console import Console

from benchmarks.continual.courses import CourseRunner
from benchmarks.continual.metrics import rouge_l
from benchmarks.continual.plan import ContinualPlan
from benchmarks.continual.running import run_all
from benchmarks.continual.serving import own_answers
from tests.benchmarks.continual.small_stream import METHODS, cells, measured, plan, write_stream
from tests.learning.bases import write_base

pytestmark = pytest.mark.slow

QUIET = Console(quiet=True)
SENTENCES = {"warm": "it is warm", "cold": "it is cold", "dock": "to the dock", "yard": "to the yard"}
ORDER = ("heat", "place")


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_base(tmp_path_factory.mktemp("llama"), "llama")


@pytest.fixture(scope="module")
def told(base: Path, tmp_path_factory: pytest.TempPathFactory) -> ContinualPlan:
    """Two tasks whose answers are sentences, judged by ROUGE-L; run through."""
    data = write_stream(tmp_path_factory.mktemp("told"))
    for path in data.glob("*/*.jsonl"):
        rows = [json.loads(line) for line in path.read_text().splitlines()]
        rows = [{**row, "output": SENTENCES.get(row["output"], row["output"])} for row in rows]
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    metrics = dict.fromkeys(ORDER, "rouge_l")
    made = plan(base, data, tmp_path_factory.mktemp("work"), orders=(ORDER,), metrics=metrics, methods=METHODS)
    run_all(made, QUIET)
    return made


class Interrupted(Exception):
    pass


def test_generated_answers_are_scored_by_the_tasks_metric(told: ContinualPlan, tmp_path: Path) -> None:
    """Against answers generated again, by the method as the last cell left it."""
    runner = CourseRunner(told)
    (course,) = [each for each in told.courses() if each.label == "lora"]
    answers = own_answers(runner, course, tmp_path / "deployed").answers
    last, partly = cells(told, "lora")[-1], 0
    for task in ORDER:
        rows = runner.tasks[task].test
        scores = [rouge_l(answer, row.completion) for answer, row in zip(answers[task], rows, strict=True)]
        assert last["scores"][task] == pytest.approx(sum(scores) / len(scores), abs=1e-6)
        partly += sum(0.0 < score < 1.0 for score in scores)
    # Half right is worth something, or there was no need for this metric.
    assert partly


@pytest.mark.parametrize("label", sorted(METHODS))
def test_interrupted_in_its_second_task_it_comes_to_the_same(label: str, told: ContinualPlan, tmp_path: Path) -> None:
    again = replace(told, work=tmp_path, methods={label: METHODS[label]})
    (course,) = again.courses()
    begun: list[int] = []

    def in_the_second(step: int, steps: int) -> None:
        begun.append(step)
        if begun.count(1) == 2 and step == 3:
            raise Interrupted

    with pytest.raises(Interrupted):
        CourseRunner(again).run(course, in_the_second)
    assert len(cells(again, label)) == 1
    run_all(again, QUIET)
    assert list(map(measured, cells(again, label))) == list(map(measured, cells(told, label)))


def test_a_process_beside_this_one_gives_the_same(told: ContinualPlan, tmp_path: Path) -> None:
    beside = replace(told, work=tmp_path)
    run_all(beside, QUIET, workers=1)
    for label in METHODS:
        assert list(map(measured, cells(beside, label))) == list(map(measured, cells(told, label)))


def test_processes_beside_one_that_is_killed_end_with_it(told: ContinualPlan, tmp_path: Path) -> None:
    endless = {"max_steps": 1_000_000, "max_epochs": 1e6, "patience": None}
    beside = replace(told, work=tmp_path, training={**told.training, **endless}, routers={})
    parent = get_context("spawn").Process(target=_beside, args=(beside,))
    parent.start()
    started: list[psutil.Process] = []
    try:
        deadline = time.monotonic() + 60
        while not list(tmp_path.glob("cells/*/course.json")):
            assert parent.is_alive() and time.monotonic() < deadline
            time.sleep(0.1)
        started = psutil.Process(parent.pid).children(recursive=True)
        parent.kill()
        _, left = psutil.wait_procs(started, timeout=20)
        assert started and not left
    finally:
        for process in (psutil.Process(parent.pid), *started) if parent.is_alive() else started:
            with suppress(psutil.NoSuchProcess):
                process.kill()
        parent.join()


def _beside(of: ContinualPlan) -> None:
    run_all(of, Console(quiet=True), workers=1)
