"""A training whose process is killed on its way, of each method there is: repeated, or gone on with by another process,
it gives the same result bit for bit."""

from __future__ import annotations

import os
import shutil
import signal
from collections.abc import Callable
from pathlib import Path

import pytest

from learning.contract import Learner, Progress, TrainingJob
from learning.methods import OPTIONS
from learning.template import PromptTemplate
from tests.learning.bases import TEMPLATE
from tests.learning.interruptions import KINDS, Stopped, found, made, second_job

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
