"""A learner that makes each training once a session. Most houses send the same examples, a training depends on nothing
but its job (`tests/learning` checks that), and PEFT is the slowest part of a house by far.

What comes back is a real training's folder, figures and progress. It does not know what becomes of them.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from learning.contract import Learner, Progress, TrainingJob, TrainingResult


@dataclass(frozen=True)
class _Made:
    result: TrainingResult
    files: dict[str, bytes]
    progress: list[Progress]


class RememberingLearner:
    """Trains with `inner`, or hands out again what it made of the same examples, seed and incumbents."""

    def __init__(self, inner: Learner) -> None:
        self.name = inner.name
        self._inner = inner
        self._made: dict[Any, _Made] = {}

    def train(self, job: TrainingJob, on_progress: Callable[[Progress], None] | None = None) -> TrainingResult:
        before = tuple((each.segment, *sorted(_files(each.adapter).items())) for each in job.incumbents)
        exams = tuple(tuple(each.exam) for each in job.incumbents)
        offered = tuple(sorted(_files(job.offered).items())) if job.offered is not None else ()
        key = (tuple(job.train), tuple(job.held_out), job.seed, before, exams, offered)
        if key not in self._made:
            seen: list[Progress] = []
            result = self._inner.train(job, seen.append)
            self._made[key] = _Made(result, _files(job.output), seen)
        made = self._made[key]
        job.output.mkdir(parents=True, exist_ok=True)
        for name, content in made.files.items():
            (job.output / name).write_bytes(content)
        for progress in made.progress if on_progress is not None else ():
            on_progress(progress)  # type: ignore[misc]
        return replace(made.result, adapters=tuple(replace(each, folder=job.output) for each in made.result.adapters))


def _files(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}
