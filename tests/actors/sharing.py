"""A learner of one lane: whatever it learns changes a part that all domains share, and it remembers how often."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import safetensors.numpy

from learning.contract import Comparison, Evaluation, Incumbent, NewAdapter, Progress, TrainingJob, TrainingResult
from tests.actors.standins import judged

BETTER, BASE = Evaluation(1.0, 0.0, 4), Evaluation(2.0, 0.0, 4)


class SharingLearner:
    """Each result has an adapter of every segment there is, the same shared row in all of them, and a state that lists
    the trainings that led to it. `forgets` names domains whose exams the next results lose on; with `changes_base` the
    shared row goes into a change of the base as well; without `keeps_state` it goes on from what is in service alone.
    """

    name = "sharing"

    def __init__(self, *, changes_base: bool = False) -> None:
        self.jobs: list[TrainingJob] = []
        self.forgets: set[str] = set()
        self.changes_base, self.keeps_state = changes_base, True

    def train(self, job: TrainingJob, on_progress: Callable[[Progress], None] | None = None) -> TrainingResult:
        self.jobs.append(job)
        before = list(json.loads((job.state / "trainings.json").read_text())) if job.state else []
        if not self.keeps_state:
            before = [[each.domain, shared_row(each.adapter).hex()] for each in job.incumbents]
        trainings = [*before, [job.domain, sorted(example.id for example in job.train)]]
        shared = np.frombuffer(hashlib.sha256(json.dumps(trainings).encode()).digest(), np.uint8)
        own = job.of_domain()
        others = [each for each in job.incumbents if each not in own[-1:]]
        adapters = [self._adapter(job.output / "own", job.domain, own[-1] if own else None, shared)]
        for each in others:
            folder = job.output / f"{each.domain}-{each.segment}"
            adapters.append(self._adapter(folder, each.domain, each, shared))
        state = job.output / "state"
        state.mkdir()
        (state / "trainings.json").write_text(json.dumps(trainings))
        delta = None
        if self.changes_base:
            delta = job.output / "delta"
            _write(delta, shared)
        touched = tuple(self._sat(each) for each in job.incumbents if each.exam)
        return TrainingResult(tuple(adapters), 1, 1.0, 0.0, 1.0, touched, delta, state if self.keeps_state else None)

    def _sat(self, incumbent: Incumbent) -> Comparison:
        rows, loses = len(incumbent.exam), incumbent.domain in self.forgets
        after = judged(rows, 4.0 if loses else 0.1, exact=not loses)
        return Comparison(incumbent.domain, incumbent.segment, judged(rows, 0.1, exact=True), after)

    @staticmethod
    def _adapter(folder: Path, domain: str, continued: Incumbent | None, shared: np.ndarray) -> NewAdapter:
        _write(folder, shared)
        (folder / "adapter_config.json").write_text(json.dumps({"peft_type": "LORA", "r": 2, "of": domain}))
        figures = (BETTER, BASE, None)
        return NewAdapter(domain, folder, 2, continued.segment if continued else None, *figures)


def shared_row(folder: Path) -> bytes:
    """The shared part of a version, or of a change of the base, as it lies in a folder."""
    row: np.ndarray = safetensors.numpy.load_file(folder / "adapter_model.safetensors")["shared"]
    return row.tobytes()


def trainings(state: Path) -> list[str]:
    """The domains whose trainings led to a state, in order."""
    listed: Sequence[tuple[str, object]] = json.loads((state / "trainings.json").read_text())
    return [domain for domain, _ in listed]


def _write(folder: Path, shared: np.ndarray) -> None:
    folder.mkdir(parents=True)
    (folder / "adapter_model.safetensors").write_bytes(safetensors.numpy.save({"shared": shared}))
