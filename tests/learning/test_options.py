"""Options: closed, frozen, bounded, documented; and contradictions named at their key."""

from typing import Any

import pytest
from pydantic import ValidationError

from learning.feature_options import FeatureOptions
from learning.gate import Gate
from learning.lora_options import LoraOptions
from learning.methods import OPTIONS
from learning.options import Options

ALL = [LoraOptions, FeatureOptions, Gate]


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
