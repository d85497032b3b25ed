"""A learner worker: trains one order at a time and says how far it is. The method is `learning`'s.

It fetches the examples from the ingest workers that hold them, so they go over the wire once and through nobody else's
memory. A coordinator that was restarted may order a training while the one its predecessor ordered still runs: the
second waits for the first.
"""

from __future__ import annotations

import hashlib
import logging
import re
import shutil
import threading
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from actors.curve import Curve
from actors.errors import ActorError, Unanswered, in_words
from actors.exam import ExamLimits, exam_from_bytes, exam_to_bytes
from actors.handover import Handover
from actors.ports import ExamplesPort, LearnerPort
from actors.training import Segment, Trained, TrainingOrder
from actors.unfinished import Unfinished, name_of
from learning.contract import Example, Incumbent, Learner, Progress, TrainingJob, TrainingResult
from learning.repeats import in_force
from registry.adapters import EXAM

_log = logging.getLogger(__name__)
_NUMBERED = re.compile(r"learner-(?P<number>\d+)")


class LearnerWorker:
    """Runs a `Learner` in the folder `work`, its own, so that an interrupted training leaves nothing in place.

    The folder is emptied at the start, before each training and after one that failed: who ordered a training takes its
    result away before the next. `ingests` are all ingest workers: each may hold some of a version's examples, two may
    hold copies. In `unfinished` it keeps what another learner needs to go on where this one dies. `handover` is the way
    of folders to and from whoever orders; without it both see the same.
    """

    def __init__(
        self,
        learner: Learner,
        work: Path,
        ingests: Sequence[ExamplesPort],
        limits: ExamLimits,
        unfinished: Unfinished | None = None,
        handover: Handover | None = None,
    ) -> None:
        self._learner, self._work, self._ingests, self._limits = learner, work, tuple(ingests), limits
        self._unfinished, self._handover = unfinished, handover
        _empty(work)
        self._progress: Progress | None = None
        self._curve = Curve()
        self._lock = threading.Lock()
        self._training = threading.Lock()

    def train(self, order: TrainingOrder) -> Trained:
        """Train what is ordered; raises `LearningError` where the method refuses it, and `Unanswered` where examples
        of it are missing."""
        with self._training:
            _empty(self._work)
            if self._handover:
                self._handover.empty(self._work.name)
                self._handover.present(
                    (*(each.folder for each in order.segments), order.state, order.base_delta, order.offered)
                )
            train, held_out = merged_examples(self._ingests, order)
            output = self._work / f"{order.domain}@v{order.seal.version}"
            output.mkdir(parents=True)
            incumbents, trouble = self._incumbents(order)
            job = TrainingJob(
                domain=order.domain,
                version=order.seal.version,
                train=train,
                held_out=held_out,
                output=output,
                seed=order.seed,
                incumbents=incumbents,
                state=order.state,
                base_delta=order.base_delta,
                offered=order.offered,
                checkpoints=self._unfinished.of(order.domain, order.seal.version) if self._unfinished else None,
            )
            try:
                result = self._learner.train(job, self._note)
                result.check(job)
                trained = self._with_exams(job, result, trouble)
                if self._handover:
                    trained = replace(trained, result=self._handover.give(self._work.name, output.name, result))
                    _empty(self._work)
                return trained
            except Exception:
                _empty(self._work)
                if self.progress() is None and self._unfinished:
                    # It may have failed for what it was to go on from: the next begins anew.
                    self._unfinished.delete(name_of(order.domain, order.seal.version))
                raise
            finally:
                self._note(None)

    def _with_exams(self, job: TrainingJob, result: TrainingResult, trouble: str) -> Trained:
        """Return the result with the exams that its version may go on with, as the gate decides."""
        exams = {(each.domain, each.segment): each.exam for each in job.incumbents}
        before = exams.get((job.domain, result.adapters[0].continues or 0), ())
        # What was answered otherwise since is asked no more.
        kept = in_force(before, [*job.train, *job.held_out])
        own, continued_exam = (
            exam_to_bytes(self._limits.chosen(job.domain, examples))
            for examples in (job.held_out, [*kept, *job.held_out])
        )
        others = [(each.domain, each.continues or 0) for each in result.adapters[1:]]
        other_exams = {place: exam_to_bytes(exams[place]) for place in others}
        troubles = "; ".join(filter(None, [trouble, result.trouble]))
        return Trained(result, len(job.train), own, continued_exam, other_exams, troubles)

    def _incumbents(self, order: TrainingOrder) -> tuple[tuple[Incumbent, ...], str]:
        """Return the order's segments with what the limits of now leave of their exams, and which exams can't be used:
        learning goes on without them."""
        incumbents: list[Incumbent] = []
        troubles: list[str] = []
        for segment in order.segments:
            exam: list[Example] = []
            try:
                exam = self._limits.chosen(segment.domain, _exam(segment))
            except (OSError, ActorError) as error:
                troubles.append(in_words(error))
            adapter = segment.folder if segment.has_adapter else None
            incumbents.append(Incumbent(segment.domain, segment.number, adapter, exam))
        return tuple(incumbents), "; ".join(troubles)

    def progress(self) -> Progress | None:
        """Return how far the training under way is, or None."""
        with self._lock:
            return replace(self._progress) if self._progress else None

    def _note(self, progress: Progress | None) -> None:
        with self._lock:
            if progress is None or self._progress is None:
                self._curve = Curve()
            if progress is not None:
                self._curve.add(progress.step, progress.loss)
                progress = replace(progress, curve=self._curve.points)
            self._progress = progress


def _exam(segment: Segment) -> list[Example]:
    """Return a segment's exam; raises `ActorError` or `OSError` where it is not what was kept."""
    if not segment.exam_digest:
        return []
    content = (segment.folder / EXAM).read_bytes()
    if hashlib.sha256(content).hexdigest() != segment.exam_digest:
        raise ActorError(f"exam of {segment.name}: it is not what was kept, so nothing was compared; restore it")
    return exam_from_bytes(content, f"exam of {segment.name}")


def learner_folder(work: Path, index: int, learners: int) -> Path:
    """Return the folder below `work` of learner `index` of `learners`; the first one also deletes the folders of
    learners that are no more."""
    for folder in work.glob("learner-*") if index == 0 else ():
        match = _NUMBERED.fullmatch(folder.name)
        if match is not None and int(match["number"]) >= learners:
            _delete(folder)
    return work / f"learner-{index}"


def _empty(folder: Path) -> None:
    for each in folder.iterdir() if folder.is_dir() else ():
        _delete(each)


def _delete(path: Path) -> None:
    """Delete a file or a folder; what can't be deleted is logged, and stays until it is tried again."""
    try:
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)
    except OSError as error:
        _log.warning("left in a learner's folder: %s", error)


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
