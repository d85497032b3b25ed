"""A learner worker: trains one order at a time and says how far it is. The method is `learning`'s.

It fetches the examples from the ingest workers that hold them, so they go over the wire once and through nobody else's
memory. A coordinator that was restarted may order a training while the one its predecessor ordered still runs: the
second waits for the first.
"""

from __future__ import annotations

import shutil
import threading
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from actors.errors import Unanswered
from actors.ports import ExamplesPort, LearnerPort
from actors.training import Trained, TrainingOrder
from learning.contract import Example, Learner, Progress, TrainingJob


class LearnerWorker:
    """Runs a `Learner` in a folder of its own below `work`, so that an interrupted training leaves nothing in place.

    `ingests` are all ingest workers: each may hold some of a version's examples, two may hold copies.
    """

    def __init__(self, learner: Learner, work: Path, ingests: Sequence[ExamplesPort]) -> None:
        self._learner, self._work, self._ingests = learner, work, tuple(ingests)
        self._progress: Progress | None = None
        self._lock = threading.Lock()
        self._training = threading.Lock()

    def train(self, order: TrainingOrder) -> Trained:
        """Train what is ordered; raises `LearningError` where the method refuses it, and `Unanswered` where examples
        of it are missing."""
        with self._training:
            train, held_out = merged_examples(self._ingests, order)
            output = self._work / f"{order.domain}@v{order.seal.version}"
            shutil.rmtree(output, ignore_errors=True)
            output.mkdir(parents=True)
            job = TrainingJob(
                domain=order.domain,
                version=order.seal.version,
                train=train,
                held_out=held_out,
                output=output,
                initial_adapter=order.continues,
                seed=order.seed,
            )
            try:
                return Trained(self._learner.train(job, self._note), len(train))
            finally:
                self._note(None)

    def progress(self) -> Progress | None:
        """Return how far the training under way is, or None."""
        with self._lock:
            return replace(self._progress) if self._progress else None

    def _note(self, progress: Progress | None) -> None:
        with self._lock:
            self._progress = progress


def merged_examples(
    ingests: Sequence[ExamplesPort], order: TrainingOrder
) -> tuple[tuple[Example, ...], tuple[Example, ...]]:
    """Return a version's training and held-out examples, one for each id, ordered by id.

    The same set gives the same training, whichever workers hold it and in whatever order they answer. Raises
    `Unanswered` unless they are as many as were sealed: a version is trained on all of its examples or not at all.
    """
    train: dict[str, Example] = {}
    held_out: dict[str, Example] = {}
    for ingest in ingests:
        some_train, some_held_out = ingest.examples(order.domain, order.seal.until)
        train.update({example.id: example for example in some_train})
        held_out.update({example.id: example for example in some_held_out})
    seal = order.seal
    if (len(train), len(held_out)) != (seal.train, seal.held_out):
        raise Unanswered(
            f"training {order.domain} v{seal.version}: expected the {seal.train} examples and {seal.held_out} held-out "
            f"ones sealed for it, got {len(train)} and {len(held_out)} from the ingest workers; it is ordered again"
        )
    return tuple(train[i] for i in sorted(train)), tuple(held_out[i] for i in sorted(held_out))


if TYPE_CHECKING:

    def _meets(actor: LearnerWorker) -> LearnerPort:
        return actor
