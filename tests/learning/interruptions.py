"""Trainings that are ended on their way and gone on with, on a clock that counts steps."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest

from learning.contract import Incumbent, Learner, Progress, TrainingJob, TrainingResult
from learning.methods import OPTIONS, learner
from learning.template import PromptTemplate
from tests.learning.colours import OTHERWISE, examples, job, options_of

KINDS: dict[str, dict[str, Any]] = {
    "lora": {},
    "seta": {"shared_rank": 2},
    "osft": {},
    "osft-factors": {"form": "factors"},
    "osft-inputs": {"basis": "inputs"},
}
"""By the method's kind, and a word for what is chosen beside."""
STEPS = 8


class Stopped(BaseException):
    """What ends a training from within."""


@dataclass
class MemoryCheckpoints:
    """One place; what it was given, and how often."""

    content: bytes | None = None
    saved: int = 0
    error: OSError | None = None
    """What it raises, whatever it is asked."""

    def save(self, content: bytes) -> None:
        if self.error is not None:
            raise self.error
        self.content, self.saved = content, self.saved + 1

    def load(self) -> bytes | None:
        if self.error is not None:
            raise self.error
        return self.content


@dataclass
class StepClock:
    """Tells one second for each step of a training that has it for `on_progress`; `stops` ends that after a step."""

    now: float = 0.0
    stops: Callable[[Progress], bool] = lambda progress: False
    seen: list[Progress] = field(default_factory=list)

    def __call__(self, progress: Progress) -> None:
        self.now += 1.0
        self.seen.append(progress)
        if self.stops(progress):
            raise Stopped

    def steps(self) -> list[int]:
        return [each.step for each in self.seen]


def made(base: Path, template: PromptTemplate, name: str, **changes: Any) -> Learner:
    """A learner of a kind; if not said otherwise, of eight steps, measured after the third, sixth and last."""
    kind = name.partition("-")[0]
    chosen = options_of(**{"max_steps": STEPS, "evaluate_every": 3, **KINDS[name], **changes})
    known = OPTIONS[kind].model_fields.keys()
    return learner(str(base), template, OPTIONS[kind](**{key: each for key, each in chosen.items() if key in known}))


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


def found(
    method: Learner, given: TrainingJob, on_progress: Callable[[Progress], None] | None = None
) -> tuple[dict[str, bytes], TrainingResult]:
    """Every file of the result, and its figures but for the time they took and who made it."""
    result = method.train(given, on_progress)
    result.check(given)
    return files_of(given.output), replace(result, seconds=0.0, resumed_from=0)


def files_of(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def train_until(method: Learner, given: TrainingJob, clock: StepClock, steps: Sequence[int]) -> None:
    """Has a training end after each of these steps, and go on from there."""
    for last in steps:
        clock.stops = lambda progress, last=last: progress.step == last  # type: ignore[misc]
        with pytest.raises(Stopped):
            method.train(given, clock)
    clock.stops = lambda progress: False
