"""Learner workers are made on folders of their own, without earlier ones; what they leave half done they share."""

from pathlib import Path

import pytest

from actors.observation import Seal
from actors.training import TrainingOrder
from cluster import builders, compute_actors
from configs.loader import load
from learning.contract import TrainingJob, TrainingResult
from tests.actors.standins import result_of


def test_learners_begin_with_empty_folders_and_without_those_of_more_learners(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(builders, "learner", lambda _settings: None)
    for index in range(4):
        (tmp_path / "work" / f"learner-{index}" / "alpha@v1").mkdir(parents=True)
    settings = load("demo", [f"home={tmp_path}", "learner.workers=2"])
    for index in range(2):
        compute_actors.learner(settings, index)
    assert sorted(path.name for path in (tmp_path / "work").rglob("*")) == ["learner-0", "learner-1"]


def test_what_one_learner_has_left_the_other_one_finds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Leaves:
        found: bytes | None = None

        def train(self, job: TrainingJob, on_progress: object = None) -> TrainingResult:
            assert job.checkpoints is not None
            self.found = job.checkpoints.load()
            job.checkpoints.save(b"half done")
            return result_of(job, 1.0)

    method = Leaves()
    monkeypatch.setattr(builders, "learner", lambda _settings: method)
    monkeypatch.setattr(compute_actors.Remote, "named", lambda _name: NoExamples())
    settings = load("demo", [f"home={tmp_path}", "learner.workers=2"])
    for index, expected in enumerate([None, b"half done"]):
        compute_actors.learner(settings, index).train(TrainingOrder("alpha", Seal(1, {}, 0, 0), (), 0))
        assert method.found == expected
    assert builders.unfinished(settings).names() == ["alpha@v1"], "where the coordinator looks for it"


class NoExamples:
    def examples(self, domain: str, until: object) -> tuple[list[object], list[object]]:
        return [], []
