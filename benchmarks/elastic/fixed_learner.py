"""A learner in its real actor whose trainings take a fixed time, and no processor: `learner.max_steps` tenths of a
second.

What it leaves is as small as a PEFT folder can be, its figures pass the gate, and the beginning and end of each
training are noted in a file of its own below the home folder, so that whoever measures asks no actor.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import safetensors.numpy

from actors.exam import ExamLimits
from actors.learner import LearnerWorker, learner_folder
from cluster import names
from cluster.remote import Remote
from configs.settings import Settings
from learning.contract import Evaluation, Learner, NewAdapter, Progress, TrainingJob, TrainingResult

STEP_S = 0.1
_RANK = 4


@dataclass(frozen=True)
class FixedTraining:
    """One training, by the clock of this machine in seconds."""

    domain: str
    learner: int
    began: float
    ended: float


class FixedLearner:
    """Learns nothing, in `steps` steps of a tenth of a second; notes each training in `note`."""

    name = "fixed"

    def __init__(self, steps: int, index: int, note: Path) -> None:
        self._steps, self._index, self._note = steps, index, note

    def train(self, job: TrainingJob, on_progress: Callable[[Progress], None] | None = None) -> TrainingResult:
        """Let the time pass, and leave an adapter."""
        began = time.time()
        for step in range(1, self._steps + 1):
            time.sleep(max(began + step * STEP_S - time.time(), 0.0))
            if on_progress is not None:
                on_progress(Progress(step, self._steps, 1.0, None))
        folder = _adapter(job.output)
        ended = time.time()
        with self._note.open("a") as file:
            file.write(json.dumps(asdict(FixedTraining(job.domain, self._index, began, ended))) + "\n")
        judged = len(job.held_out)
        new = NewAdapter(job.domain, folder, _RANK, None, _evaluation(1.0, judged), _evaluation(2.0, judged), None)
        return TrainingResult((new,), self._steps, 1.0, ended - began, 1.0)


def learner(settings: Settings, index: int) -> LearnerWorker:
    """Learner worker `index`, as `cluster.compute_actors.learner` makes it but for its method."""
    method = FixedLearner(settings.learner.max_steps, index, settings.home / f"trainings-{index}.jsonl")
    return LearnerWorker(
        method,
        learner_folder(settings.home / "work", index, settings.learner.workers.most),
        [Remote.named(names.ingest(each)) for each in range(settings.ingest.workers)],
        ExamLimits(settings.gate.exam_rows, settings.gate.exam_bytes),
    )


def trainings(home: Path) -> list[FixedTraining]:
    """All trainings that have ended on a home, in the order of their ends."""
    lines = [line for path in home.glob("trainings-*.jsonl") for line in path.read_text().splitlines()]
    return sorted((FixedTraining(**json.loads(line)) for line in lines), key=lambda training: training.ended)


def _adapter(output: Path) -> Path:
    folder = output / "adapter"
    folder.mkdir(parents=True)
    (folder / "adapter_config.json").write_text(json.dumps({"peft_type": "LORA", "r": _RANK}))
    values = np.zeros((_RANK, 8), dtype=np.float32)
    safetensors.numpy.save_file({"layers.0.lora_A.weight": values}, folder / "adapter_model.safetensors")
    return folder


def _evaluation(loss: float, examples: int) -> Evaluation:
    return Evaluation(loss, 1.0, examples, (loss,) * examples, (True,) * examples)


if TYPE_CHECKING:
    _: type[Learner] = FixedLearner
