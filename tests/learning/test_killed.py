"""A training that is killed on its way, of each method there is: repeated, it gives the same result bit for bit."""

from __future__ import annotations

import os
import shutil
import signal
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from learning.contract import Incumbent, Learner, Progress, TrainingJob, TrainingResult
from learning.methods import OPTIONS, learner
from learning.template import PromptTemplate
from tests.learning.bases import TEMPLATE
from tests.learning.colours import OTHERWISE, examples, job, options_of

KINDS: dict[str, dict[str, Any]] = {
    "lora": {},
    "seta": {"shared_rank": 2},
    "osft": {},
    "osft-factors": {"form": "factors"},
    "osft-inputs": {"basis": "inputs"},
}
"""By the method's kind, and a word for what is chosen beside."""
DIES_AT = 4


class Stopped(BaseException):
    """What ends a training from within."""


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


def made(llama: Path, template: PromptTemplate, name: str) -> Learner:
    kind = name.partition("-")[0]
    chosen = options_of(max_steps=8, evaluate_every=3, **KINDS[name])
    known = OPTIONS[kind].model_fields.keys()
    return learner(str(llama), template, OPTIONS[kind](**{key: each for key, each in chosen.items() if key in known}))


def second_job(method: Learner, folder: Path) -> TrainingJob:
    """Another domain's, after a first one was learned."""
    first = method.train(job(folder / "first"))
    colours = Incumbent("colours", 1, first.adapters[0].folder, examples(12, 1000))
    return job(
        folder / "second",
        domain="shapes",
        train=examples(40, 0, OTHERWISE, "fine "),
        held_out=examples(8, 40, OTHERWISE, "fine "),
        incumbents=[colours],
        state=first.state,
        base_delta=first.base_delta,
    )


def found(method: Learner, second: TrainingJob) -> tuple[dict[str, bytes], TrainingResult]:
    """Every file of the result, and its figures but for the time they took."""
    result = method.train(second)
    result.check(second)
    files = [path for path in second.output.rglob("*") if path.is_file()]
    return {str(path.relative_to(second.output)): path.read_bytes() for path in files}, replace(result, seconds=0.0)


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
