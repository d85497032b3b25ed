"""A learner's folder holds nothing of a training that is over, however that ended."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest

from actors.exam import ExamLimits, exam_to_bytes
from actors.learner import LearnerWorker, learner_folder
from actors.observation import Seal
from actors.training import Segment, Trained, TrainingOrder
from learning.contract import Example, TrainingJob, TrainingResult
from learning.errors import LearningError
from registry.adapters import EXAM
from tests.actors.house import EXAMS
from tests.actors.standins import result_of


class Writes:
    """A learner that writes a file, and then may raise."""

    name = "writes"

    def __init__(self) -> None:
        self.error: BaseException | None = None
        self.found: list[str] = []

    def train(self, job: TrainingJob, on_progress: object = None) -> TrainingResult:
        self.found = below(job.output.parent)
        (job.output / "weights").write_text(job.domain)
        if self.error is not None:
            raise self.error
        return result_of(job, 1.0)


def order(domain: str, version: int = 1) -> TrainingOrder:
    return TrainingOrder(domain, Seal(version, {}, 0, 0), (), 0)


def below(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*"))


def test_a_result_is_there_until_the_next_training_begins(tmp_path: Path) -> None:
    learner = Writes()
    worker = LearnerWorker(learner, tmp_path, [], EXAMS)
    trained = worker.train(order("alpha"))
    assert (trained.result.adapters[0].folder / "weights").read_text() == "alpha"
    worker.train(order("beta"))
    assert learner.found == ["beta@v1"] and below(tmp_path) == ["beta@v1", "beta@v1/weights"]


@pytest.mark.parametrize("error", [LearningError("no example fits"), RuntimeError("CUDA out of memory")])
def test_a_training_that_failed_leaves_nothing(tmp_path: Path, error: Exception) -> None:
    learner = Writes()
    worker = LearnerWorker(learner, tmp_path, [], EXAMS)
    learner.error = error
    with pytest.raises(type(error)):
        worker.train(order("alpha"))
    assert below(tmp_path) == []
    learner.error = None
    assert worker.train(order("alpha")).result.adapters[0].folder.is_dir()


def test_what_a_process_that_died_left_is_gone_at_the_next_start(tmp_path: Path) -> None:
    class Killed(BaseException):
        """No handler catches it, as none could catch a SIGKILL."""

    learner = Writes()
    learner.error = Killed()
    with pytest.raises(Killed):
        LearnerWorker(learner, tmp_path / "own", [], EXAMS).train(order("alpha"))
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "kept").touch()
    (tmp_path / "own" / "link").symlink_to(tmp_path / "elsewhere")
    assert "alpha@v1/weights" in below(tmp_path / "own")
    LearnerWorker(learner, tmp_path / "own", [], EXAMS)
    assert below(tmp_path / "own") == [] and (tmp_path / "elsewhere" / "kept").exists()


# -- exams ------------------------------------------------------------------------------------------------------------

ASKED = [Example(f"e{number}", f"what is {number}", "ok") for number in range(6)]


class Looks(Writes):
    """And remembers what it may touch."""

    def train(self, job: TrainingJob, on_progress: object = None) -> TrainingResult:
        self.job = job
        return super().train(job)


def with_exam(folder: Path, limits: ExamLimits) -> tuple[Looks, Trained]:
    """A training of a worker with these limits, beside a segment whose exam is `ASKED`, as its folder has it by now."""
    learner = Looks()
    kept = hashlib.sha256(exam_to_bytes(ASKED)).hexdigest()
    beside = (Segment("alpha", 1, "alpha@v1-0a1b2c3d", folder / "one", kept),)
    worker = LearnerWorker(learner, folder / "work", [], limits)
    return learner, worker.train(TrainingOrder("alpha", Seal(2, {}, 0, 0), beside, 0))


def keep(folder: Path, exam: bytes) -> None:
    (folder / "one").mkdir()
    (folder / "one" / EXAM).write_bytes(exam)


@pytest.mark.parametrize(("rows", "asks"), [(16, 6), (4, 4), (0, 0)])
def test_an_exam_is_asked_within_the_limits_of_now(tmp_path: Path, rows: int, asks: int) -> None:
    keep(tmp_path, exam_to_bytes(ASKED))
    learner, trained = with_exam(tmp_path, ExamLimits(rows, 1 << 16))
    assert len(learner.job.incumbents[0].exam) == asks and trained.trouble == ""
    assert trained.continued_exam == exam_to_bytes(learner.job.incumbents[0].exam)


def test_an_exam_that_is_not_what_was_kept_is_named_and_asks_nothing(tmp_path: Path) -> None:
    keep(tmp_path, exam_to_bytes(ASKED).replace(b"what is 3", b"what is 4"))
    learner, trained = with_exam(tmp_path, EXAMS)
    assert learner.job.incumbents[0].exam == [] and "alpha@v1-0a1b2c3d" in trained.trouble
    assert "restore it" in trained.trouble


def test_an_exam_that_is_gone_is_named(tmp_path: Path) -> None:
    learner, trained = with_exam(tmp_path, EXAMS)
    assert learner.job.incumbents[0].exam == [] and EXAM in trained.trouble


def test_the_first_learner_deletes_the_folders_of_those_that_are_no_more(tmp_path: Path) -> None:
    for name in ("learner-0", "learner-1", "learner-2", "learner-10", "learner-x", "learner-2-notes"):
        (tmp_path / name / "alpha@v1").mkdir(parents=True)
    assert learner_folder(tmp_path, 1, 2) == tmp_path / "learner-1"
    assert len(list(tmp_path.iterdir())) == 6
    assert learner_folder(tmp_path, 0, 2) == tmp_path / "learner-0"
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "learner-0",
        "learner-1",
        "learner-2-notes",
        "learner-x",
    ]
    assert learner_folder(tmp_path / "none", 0, 1) == tmp_path / "none" / "learner-0"
