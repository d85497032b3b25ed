"""Options: closed, frozen, bounded, documented; and contradictions named at their key."""

from typing import Any

import pytest
from pydantic import ValidationError

from learning.feature_options import FeatureOptions
from learning.gate import Gate
from learning.lora_options import LoraOptions
from learning.methods import OPTIONS
from learning.options import Options
from learning.osft_options import OsftOptions

ALL = [LoraOptions, OsftOptions, FeatureOptions, Gate]


@pytest.mark.parametrize("options", ALL)
def test_each_field_says_what_follows_from_it(options: type[Options]) -> None:
    for name, field in options.model_fields.items():
        assert field.description and field.description.endswith("."), name


@pytest.mark.parametrize("options", ALL)
def test_options_are_closed_and_frozen(options: type[Options]) -> None:
    with pytest.raises(ValidationError, match="extra"):
        options.model_validate({"rnk": 1})
    made = options()
    name = next(iter(options.model_fields))
    with pytest.raises(ValidationError, match="frozen"):
        setattr(made, name, getattr(made, name))


@pytest.mark.parametrize(
    ("options", "values"),
    [
        (FeatureOptions, {"layers": ()}),
        (FeatureOptions, {"layers": (-1,)}),
        (FeatureOptions, {"poolings": ("median",)}),
        (FeatureOptions, {"poolings": ()}),
        (FeatureOptions, {"expansion": -1}),
        (FeatureOptions, {"max_tokens": 1}),
        (FeatureOptions, {"batch_size": 0}),
        (FeatureOptions, {"dtype": "int8"}),
        (FeatureOptions, {"device": "tpu"}),
        (LoraOptions, {"kind": "osft"}),
        (LoraOptions, {"frozen_layers": -1}),
        (LoraOptions, {"rank": 0}),
        (LoraOptions, {"alpha": float("nan")}),
        (LoraOptions, {"targets": ()}),
        (LoraOptions, {"learning_rate": 0.0}),
        (LoraOptions, {"max_epochs": 0.0}),
        (LoraOptions, {"max_tokens": 1}),
        (LoraOptions, {"patience": -1}),
        (LoraOptions, {"dropout": 1.0}),
        (LoraOptions, {"b_rate": 0.0}),
        (LoraOptions, {"continue_rate": float("inf")}),
        (LoraOptions, {"micro_batch_tokens": 0}),
        (LoraOptions, {"logit_chunk": 0}),
        (LoraOptions, {"evaluate_examples": 0}),
        (LoraOptions, {"judge_examples": 0}),
        (OsftOptions, {"ratio": 1.0}),
        (OsftOptions, {"ratio": -0.1}),
        (OsftOptions, {"trr": 1.0}),
        (OsftOptions, {"energy": 0.0}),
        (OsftOptions, {"softness": 0.0}),
        (OsftOptions, {"form": "hooks"}),
        (OsftOptions, {"rank": 4}),
        (Gate, {"exam_rows": -1}),
        (Gate, {"exam_bytes": 0}),
        (Gate, {"loss_tolerance": -0.1}),
        (Gate, {"exact_tolerance": 1.5}),
        (Gate, {"min_gain": -0.1}),
        (Gate, {"min_gain": float("nan")}),
    ],
    ids=str,
)
def test_senseless_values_are_refused_at_their_key(options: type[Options], values: dict[str, Any]) -> None:
    with pytest.raises(ValidationError) as caught:
        options.model_validate(values)
    assert {problem["loc"][0] for problem in caught.value.errors()} == set(values)


@pytest.mark.parametrize(
    ("options", "values", "key"),
    [
        (FeatureOptions, {"layers": (1, 1)}, "layers"),
        (FeatureOptions, {"poolings": ("mean", "mean")}, "poolings"),
        (LoraOptions, {"patience": 2, "evaluate_every": 50, "max_steps": 50}, "evaluate_every"),
        (LoraOptions, {"warmup_steps": 10, "max_steps": 10, "evaluate_every": 5}, "warmup_steps"),
        (OsftOptions, {"mrr": 0.9}, "mrr"),
        (OsftOptions, {"form": "factors", "basis": "kronecker"}, "form"),
    ],
    ids=str,
)
def test_contradictions_are_named_at_a_key(options: type[Options], values: dict[str, Any], key: str) -> None:
    with pytest.raises(ValidationError) as caught:
        options.model_validate(values)
    (problem,) = caught.value.errors()
    assert problem["type"] == "disagreement" and problem["ctx"]["path"] == key


def test_methods_are_found_by_their_kind() -> None:
    for kind, options in OPTIONS.items():
        assert options.model_fields["kind"].default == kind


@pytest.mark.parametrize(
    ("chosen", "trained"),
    [
        ({"ratio": 0.25}, 6 * 6),
        ({"ratio": None, "trr": 0.5}, 4 * 4),
        ({"ratio": 0.25, "form": "factors"}, 6 * (12 + 8 + 1)),
        ({"basis": "inputs"}, 12 * 8),
        ({"basis": "inputs", "form": "factors"}, 8 * (12 + 8 + 1)),
        ({"basis": "kronecker"}, 12 * 8),
    ],
)
def test_osft_trains_so_many_weights_of_a_module(chosen: dict[str, Any], trained: int) -> None:
    options = OsftOptions.model_validate(chosen)
    assert options.weights_trained(12, 8) == trained and options.adapter_rank == 0
