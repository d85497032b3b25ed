"""A training whose process is killed on its way, of each method there is: repeated, or gone on with by another process,
it gives the same result bit for bit."""

from __future__ import annotations

import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import pytest

from learning.contract import Learner, Progress, TrainingJob
from learning.methods import OPTIONS
from learning.template import PromptTemplate
from tests.learning.bases import TEMPLATE
from tests.learning.interruptions import KINDS, Stopped, files_of, found, made, second_job
from tests.learning.resuming import MANY

DIES_AT = 4


@pytest.fixture(scope="module")
def template(llama: Path) -> PromptTemplate:
    return PromptTemplate(str(llama), TEMPLATE, "\n")


def test_every_method_is_among_them() -> None:
    assert {name.partition("-")[0] for name in KINDS} == OPTIONS.keys()


@pytest.mark.parametrize("how", ["killed", pytest.param("stopped", marks=pytest.mark.slow)])
@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[pytest.mark.slow] if "-" in name else []) for name in KINDS]
)
def test_what_was_ended_on_its_way_is_repeated_bit_for_bit(
    llama: Path, template: PromptTemplate, tmp_path: Path, name: str, how: str
) -> None:
    """On top of a first domain, with all that it left; a process that lives on trains with the same model again."""
    one, two = made(llama, template, name), made(llama, template, name)
    second = second_job(one, tmp_path)
    expected = found(one, second)
    shutil.rmtree(second.output)
    if how == "killed":
        assert os.WTERMSIG(killed(two, second)) == signal.SIGKILL
    else:
        with pytest.raises(Stopped):
            two.train(second, at_step(DIES_AT, stop))
    shutil.rmtree(second.output, ignore_errors=True)
    assert found(two, second) == expected


@pytest.mark.slow
@pytest.mark.parametrize(("name", "interval", "deaths"), [("lora", 1, 3), ("seta", 7, 1), ("osft", 7, 1)])
def test_what_is_killed_at_any_moment_is_gone_on_with_by_another_process(
    llama: Path, template: PromptTemplate, tmp_path: Path, repository: Path, name: str, interval: int, deaths: int
) -> None:
    """Each has a folder and a model of its own; all that they share is where checkpoints are kept."""
    method = made(llama, template, name, **MANY)
    plain = second_job(method, tmp_path / "undisturbed")
    method.train(plain)
    (tmp_path / "steps").touch()
    moments = random.Random(name)
    for turn in range(deaths + 1):
        arguments = [str(each) for each in (llama, name, interval, tmp_path, tmp_path / f"process-{turn}")]
        child = subprocess.Popen([sys.executable, "-m", "tests.learning.resuming", *arguments], cwd=repository)
        try:
            dies_after = len(steps(tmp_path)) + moments.randrange(1, 30) if turn < deaths else 10_000
            while child.poll() is None and len(steps(tmp_path)) < dies_after:
                time.sleep(0.001)
        finally:
            child.kill()
        assert child.wait(60) == (-signal.SIGKILL if turn < deaths else 0)
    assert files_of(tmp_path / f"process-{deaths}" / "second") == files_of(plain.output)
    made_steps = steps(tmp_path)
    ends = [(last, begun) for (_, last), (begun, step) in pairwise(made_steps) if step != last + 1 or begun == last]
    assert len(ends) == deaths and made_steps[-1][1] == MANY["max_steps"]
    assert all(begun <= last <= begun + interval for last, begun in ends), ends


def steps(folder: Path) -> list[tuple[int, int]]:
    """The steps made, each after where its process had begun."""
    lines = (folder / "steps").read_text(encoding="ascii").splitlines(keepends=True)
    return [(int(begun), int(step)) for begun, step in (line.split() for line in lines if line.endswith("\n"))]


def killed(method: Learner, second: TrainingJob) -> int:
    """How a process ended that was killed in the middle of the training."""
    child = os.fork()
    if child == 0:
        try:
            method.train(second, at_step(DIES_AT, lambda: os.kill(os.getpid(), signal.SIGKILL)))
        finally:
            os._exit(1)
    return os.waitpid(child, 0)[1]


def at_step(number: int, does: Callable[[], None]) -> Callable[[Progress], None]:
    def noted(progress: Progress) -> None:
        if progress.step == number:
            does()

    return noted


def stop() -> None:
    raise Stopped
