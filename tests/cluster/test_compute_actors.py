"""Learner workers are made on folders of their own; those of earlier ones are gone."""

from pathlib import Path

import pytest

from cluster import builders, compute_actors
from configs.loader import load


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
