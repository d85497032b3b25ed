"""A learner worker: trains one job at a time and says how far it is. The method is `learning`'s.

A coordinator that was restarted may ask for a training while the one its predecessor asked for still runs: the second
waits for the first.
"""

from __future__ import annotations

import shutil
import threading
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from learning.contract import Example, Learner, Progress, TrainingJob, TrainingResult


class LearnerWorker:
    """Runs a `Learner` in a folder of its own below `work`, so that an interrupted training leaves nothing in place."""

    def __init__(self, learner: Learner, work: Path) -> None:
        self._learner, self._work = learner, work
        self._progress: Progress | None = None
        self._lock = threading.Lock()
        self._training = threading.Lock()

    def train(
        self,
        domain: str,
        version: int,
        train: Sequence[Example],
        held_out: Sequence[Example],
        initial_adapter: Path | None,
        seed: int,
    ) -> TrainingResult:
        """Train a version of a domain from the frozen base, or on from `initial_adapter`."""
        with self._training:
            output = self._work / f"{domain}@v{version}"
            shutil.rmtree(output, ignore_errors=True)
            output.mkdir(parents=True)
            job = TrainingJob(
                domain=domain,
                version=version,
                train=tuple(train),
                held_out=tuple(held_out),
                output=output,
                initial_adapter=initial_adapter,
                seed=seed,
            )
            try:
                return self._learner.train(job, self._note)
            finally:
                self._note(None)

    def progress(self) -> Progress | None:
        """Return how far the training under way is, or None."""
        with self._lock:
            return replace(self._progress) if self._progress else None

    def _note(self, progress: Progress | None) -> None:
        with self._lock:
            self._progress = progress
