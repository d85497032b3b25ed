"""Parts are built from the options that settings inherit, and an old home keeps the scale that it was made with."""

from pathlib import Path

import numpy as np
import pytest

from cluster import builders
from configs.loader import load
from configs.settings import Settings
from learning import calibration
from learning.standardisation import Standardisation
from registry.manifest import BaseRevision, Manifest
from registry.registry import Registry


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return load(
        "demo", [f"home={tmp_path}", "features.layers=[0]", "features.poolings=[mean]", "features.expansion=16"]
    )


def test_a_new_home_is_scaled_by_the_calibration_text(settings: Settings) -> None:
    made = builders.extractor(settings)
    assert made.options == settings.features and made.options.expansion == made.feature_dim == 16
    assert made.standardisation.name == calibration.name()


def test_an_old_home_keeps_its_frozen_scale_everywhere(settings: Settings) -> None:
    fresh = builders.extractor(settings).fingerprint
    frozen = Standardisation(np.zeros(160), np.full(160, 2.0))
    registry = Registry(builders.registry_root(settings), writer=True)
    (registry.root / "frozen" / builders.STANDARDISATION).write_bytes(frozen.to_bytes())
    made = builders.extractor(settings)
    assert made.standardisation.digest == frozen.digest and made.fingerprint != fresh
    revision = BaseRevision(model="b", revision="r0", digest="d")
    manifest = Manifest.model_construct(number=1, base=revision)
    assert builders.extractor_for(settings)(manifest).fingerprint == made.fingerprint


def test_the_gate_is_the_one_of_the_settings(settings: Settings) -> None:
    strict = Settings.model_validate({**settings.model_dump(), "gate": {"min_gain": 0.25}})
    assert builders.coordinator_options(strict).gate.min_gain == 0.25
