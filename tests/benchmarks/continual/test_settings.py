"""The settings that come with the repository: every method and engine of them can be made as it stands there."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.continual import baselines
from benchmarks.continual.__main__ import parser, planned
from benchmarks.continual.plan import SETTINGS
from learning import methods
from learning.catalogue import CATALOGUE
from learning.feature_options import FeatureOptions
from serving.options import EngineKnobs

FILES = sorted(SETTINGS.parent.glob("continual*.yaml"))


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_all_that_is_set_is_taken(path: Path) -> None:
    given = ["--data", "none", "--order", "a,b", "--settings", str(path), "--base", "none"]
    plan, _ = planned(parser().parse_args(given))
    options = {**methods.OPTIONS, **baselines.OPTIONS}
    assert plan.methods
    for settings in plan.methods.values():
        made = options[str(settings["kind"])].model_validate({**plan.training, **settings})
        assert made.kind == settings["kind"]
    FeatureOptions.model_validate(dict(plan.features))
    EngineKnobs.model_validate(dict(plan.serving))


def test_a_base_by_its_short_name_is_no_folder_beside_the_settings() -> None:
    given = ["--data", "none", "--order", "a,b", "--settings", str(SETTINGS.parent / "continual_smollm2.yaml")]
    plan, _ = planned(parser().parse_args(given))
    assert plan.base in CATALOGUE
    plan, _ = planned(parser().parse_args(given[:4]))
    assert Path(plan.base).is_absolute()
