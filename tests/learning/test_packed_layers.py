"""Layers over texts laid end to end: the modules' own numbers, whatever the texts, and no other model's."""

import random
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoConfig, AutoModel, PreTrainedModel

from learning import packed_layers
from learning.exact_norms import keep_norms_in_float64
from learning.feature_options import FeatureOptions
from learning.features import FeatureExtractor
from learning.lower_layers import LowerLayers
from learning.packed_layers import PackedLayers
from tests.learning.bases import SHAPE

POSITIONS = 100
TEXTS = [[place * number % 260 for place in range(length)] for number, length in enumerate((1, 100, 2, 37, 37, 64), 3)]
LLAMA3 = {
    "rope_type": "llama3",
    "rope_theta": 10000.0,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 32,
}


def model(kind: str, **changes: Any) -> PreTrainedModel:
    config = AutoConfig.for_model(kind, **{**SHAPE, "num_key_value_heads": 2, "head_dim": 8, **changes})
    torch.manual_seed(0)
    made: PreTrainedModel = AutoModel.from_config(config, dtype=torch.float64)
    for name, parameter in made.named_parameters():
        if "norm" in name or "bias" in name:
            torch.nn.init.uniform_(parameter.data, 0.5, 1.5)
    keep_norms_in_float64(made)
    made.norm = torch.nn.Identity()
    return made.requires_grad_(False).eval()


def packed(of: PreTrainedModel) -> PackedLayers:
    made = PackedLayers.of(of, POSITIONS)
    assert made is not None
    return made


@pytest.mark.parametrize(
    "kind, changes",
    [
        ("llama", {}),
        ("llama", {"attention_bias": True, "mlp_bias": True, "num_key_value_heads": 4}),
        ("llama", {"head_dim": 6, "num_key_value_heads": 1, "rope_parameters": LLAMA3}),
        ("mistral", {"sliding_window": None}),
        ("qwen2", {}),
    ],
)
def test_states_are_those_of_the_models_own_modules(kind: str, changes: dict[str, Any]) -> None:
    original = model(kind, **changes)
    found = packed(original).hidden_states(TEXTS, range(5))
    start = 0
    for ids in TEXTS:
        with torch.no_grad():
            expected = original(input_ids=torch.tensor([ids]), output_hidden_states=True, use_cache=False).hidden_states
        for layer, states in enumerate(expected):
            ours = found[layer][start : start + len(ids)]
            assert np.abs(ours - states[0].numpy()).max() < 1e-12 * states.abs().max(), (layer, len(ids))
        start += len(ids)
    assert start == len(found[0])


@pytest.mark.parametrize(
    "kind, changes",
    [
        ("qwen3", {}),
        ("gemma3_text", {}),
        ("olmo2", {}),
        ("mistral", {"sliding_window": 4}),
        ("qwen2", {"use_sliding_window": True, "sliding_window": 4, "max_window_layers": 1}),
        ("llama", {"hidden_act": "gelu"}),
        ("llama", {"rope_parameters": {"rope_type": "dynamic", "rope_theta": 10000.0, "factor": 2.0}}),
    ],
)
def test_other_forms_keep_their_modules(kind: str, changes: dict[str, Any]) -> None:
    assert PackedLayers.of(model(kind, **changes), POSITIONS) is None


def test_a_model_that_only_looks_alike_keeps_its_modules() -> None:
    alike: Any = model("llama")
    alike.layers[1].mlp.register_forward_hook(lambda module, given, out: out * 1.0001)
    assert PackedLayers.of(alike, POSITIONS) is None
    with_nan: Any = model("llama")
    with_nan.layers[0].mlp.down_proj.weight.data[0, 0] = torch.nan
    assert PackedLayers.of(with_nan, POSITIONS) is None


def test_who_lies_beside_a_text_does_not_matter() -> None:
    made = packed(model("llama"))
    together = made.hidden_states(TEXTS, [0, 4])
    with ThreadPoolExecutor(4) as threads:
        alone = list(threads.map(lambda ids: made.hidden_states([ids], [0, 4]), TEXTS))
    for layer in range(2):
        apart = np.concatenate([states[layer] for states in alone])
        assert np.abs(together[layer] - apart).max() < 1e-13 * np.abs(apart).max()


def test_neither_blocks_of_scores_nor_the_table_of_tokens_change_anything(monkeypatch: pytest.MonkeyPatch) -> None:
    original = model("llama")
    expected = packed(original).hidden_states(TEXTS, [1, 4])
    monkeypatch.setattr(
        packed_layers, "_SCORES", 4 * 37 * 5
    )  # five queries of a middling text, one of the longest; eleven of a short one
    monkeypatch.setattr(packed_layers, "_ROWS", 11)
    monkeypatch.setattr(packed_layers, "_TABLE_BYTES", 0)
    made = packed(original)
    assert made._table_VO is None
    for ours, states in zip(made.hidden_states(TEXTS, [1, 4]), expected, strict=True):
        assert np.abs(ours - states).max() < 1e-13 * np.abs(states).max()


def test_layers_stand_in_the_order_asked_for_and_no_more_are_computed(monkeypatch: pytest.MonkeyPatch) -> None:
    made = packed(model("llama"))
    plain = made.hidden_states(TEXTS, range(5))
    monkeypatch.setattr(made, "_layers", made._layers[:3])
    for ours, layer in zip(made.hidden_states(TEXTS, (3, 0)), (3, 0), strict=True):
        assert np.array_equal(ours, plain[layer])


def test_features_are_the_same_with_the_models_modules(llama: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    options = FeatureOptions(layers=(0, 2), poolings=("mean", "max", "std", "last"), expansion=64, max_tokens=100)
    drawn = random.Random(0)
    texts = [
        "".join(chr(drawn.choice((97, 32, 233, 28450, 128512))) for _ in range(drawn.randrange(1, 60)))
        for _ in range(40)
    ]
    ours = FeatureExtractor(str(llama), options)
    monkeypatch.setattr(LowerLayers, "packed", lambda self, positions: None)
    theirs = FeatureExtractor(str(llama), options)
    assert isinstance(ours._layers._layers, PackedLayers) and isinstance(theirs._layers._layers, LowerLayers)
    assert np.abs(ours.pooled(texts) - theirs.pooled(texts)).max() < 1e-12
    assert (ours.extract(texts) == theirs.extract(texts)).mean() > 0.999
    assert ours.fingerprint == theirs.fingerprint


def test_only_float64_on_the_host_is_packed(llama: Path) -> None:
    assert LowerLayers(llama, 2, "float64", "cpu").packed(50) is not None
    assert LowerLayers(llama, 2, "float32", "cpu").packed(50) is None
