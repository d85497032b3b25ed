"""Settings inherit what a method, the features and the engine are made with: one default each, one place."""

from pathlib import Path
from typing import Any

import pytest

from configs.loader import load
from configs.settings import LEARNERS, Serving, Settings
from learning.feature_options import FeatureOptions
from learning.gate import Gate
from learning.lora_options import LoraOptions
from learning.osft_options import OsftOptions
from learning.seta_options import SetaOptions
from serving.options import EngineKnobs

REPOSITORY = Path(__file__).parents[2]
# What settings said before methods owned their options; a file that leaves a key out still means this.
DEFAULTS: dict[str, Any] = {
    "learner.rank": 16,
    "learner.alpha": 32.0,
    "learner.learning_rate": 2e-4,
    "learner.max_steps": 1000,
    "learner.max_tokens": 1024,
    "serving.max_loras": 4,
    "serving.max_cpu_loras": 16,
    "features.dtype": "float64",
}
FEATURES = ("features.dtype", "features.max_tokens", "features.batch_size", "features.seed")
LEARNER = (
    "rank",
    "alpha",
    "learning_rate",
    "max_steps",
    "max_tokens",
    "batch_size",
    "max_epochs",
    "schedule",
    "targets",
)
TARGETS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")


def value(settings: Settings, key: str) -> object:
    section, _, name = key.partition(".")
    return getattr(getattr(settings, section), name)


@pytest.mark.parametrize(
    ("section", "owner"),
    [
        (LEARNERS["lora"], LoraOptions),
        (LEARNERS["seta"], SetaOptions),
        (LEARNERS["osft"], OsftOptions),
        (Settings.model_fields["features"].annotation, FeatureOptions),
        (Settings.model_fields["gate"].annotation, Gate),
        (Serving, EngineKnobs),
    ],
    ids=["lora", "seta", "osft", "features", "gate", "serving"],
)
def test_no_section_states_again_what_its_owner_states(section: Any, owner: Any) -> None:
    assert issubclass(section, owner)
    for name, field in owner.model_fields.items():
        inherited = section.model_fields[name]
        assert inherited.default == field.default and inherited.description == field.description, name


def test_the_defaults_are_the_settings_of_old() -> None:
    settings = Settings.model_validate({"name": "a", "base": {"model": "owner/model"}})
    assert {key: value(settings, key) for key in DEFAULTS} == DEFAULTS


@pytest.mark.parametrize(
    ("config", "features", "learner", "loras"),
    [
        ("demo", ("float64", 192, 32, 0), (16, 32.0, 4e-3, 180, 256, 8, 20.0, "cosine", TARGETS), (6, 12)),
        ("laptop", ("float64", 256, 32, 0), (16, 32.0, 5e-3, 600, 512, 16, 20.0, "cosine", TARGETS), (8, 32)),
        ("one_gpu", ("bfloat16", 512, 32, 0), (16, 32.0, 2e-4, 1000, 1024, 8, 5.0, "cosine", TARGETS), (8, 64)),
        ("cluster", ("bfloat16", 512, 32, 0), (16, 32.0, 2e-4, 2000, 2048, 16, 5.0, "cosine", TARGETS), (16, 128)),
        ("smollm2", ("float32", 256, 32, 0), (8, 16.0, 2e-3, 120, 512, 8, 8.0, "cosine", TARGETS), (4, 16)),
        (
            "benchmarks/clinc.yaml",
            ("float64", 128, 32, 0),
            (8, 16.0, 1e-2, 300, 128, 16, 20.0, "cosine", TARGETS),
            (12, 24),
        ),
    ],
)
def test_presets_mean_what_they_meant(
    config: str, features: tuple[object, ...], learner: tuple[object, ...], loras: tuple[int, int]
) -> None:
    settings = load(REPOSITORY / config if config.endswith(".yaml") else config)
    assert tuple(value(settings, key) for key in FEATURES) == features
    assert tuple(value(settings, f"learner.{name}") for name in LEARNER) == learner
    assert (settings.serving.max_loras, settings.serving.max_cpu_loras) == loras
