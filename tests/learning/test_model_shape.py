"""The weights counted from a configuration are those of the model that transformers builds from it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM

from learning.checkpoint import weight_files
from learning.errors import CheckpointError
from learning.model_shape import PUBLISHED, ModelShape, read_shape

TOTALS = {
    "Qwen/Qwen2.5-0.5B-Instruct": 494_032_768,
    "Qwen/Qwen2.5-1.5B-Instruct": 1_543_714_304,
    "Qwen/Qwen2.5-3B-Instruct": 3_085_938_688,
    "Qwen/Qwen2.5-7B-Instruct": 7_615_616_512,
    "Qwen/Qwen2.5-14B-Instruct": 14_770_033_664,
    "meta-llama/Llama-3.1-8B-Instruct": 8_030_261_248,
    "mistralai/Mistral-7B-Instruct-v0.3": 7_248_023_552,
}
"""As published with the weights."""


def test_the_table_counts_what_was_published() -> None:
    assert {name: shape.weights for name, shape in PUBLISHED.items()} == TOTALS


@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize(
    ("kind", "more"),
    [
        *((kind, {}) for kind in ("llama", "mistral", "qwen2", "qwen3")),
        *((kind, more) for kind in ("llama", "qwen3") for more in ({"attention_bias": True}, {"head_dim": 24})),
    ],
)
def test_it_counts_what_is_built(kind: str, more: dict[str, object], tied: bool) -> None:
    config = {"model_type": kind, "hidden_size": 48, "num_hidden_layers": 3, "num_attention_heads": 4, **more}
    config |= {"num_key_value_heads": 2, "intermediate_size": 80, "vocab_size": 96, "tie_word_embeddings": tied}
    config.setdefault("head_dim", 12)
    with torch.device("meta"):
        built = AutoModelForCausalLM.from_config(AutoConfig.for_model(**config))
    assert ModelShape.of(config, "here").weights == sum(parameter.numel() for parameter in built.parameters())


def test_the_lower_layers_of_the_example_base(repository: Path) -> None:
    from safetensors import safe_open

    folder = repository / "examples" / "base"
    sizes: dict[str, int] = {}
    for file in weight_files(folder):
        with safe_open(file, framework="pt") as opened:
            sizes |= {name: opened.get_tensor(name).numel() for name in opened.keys()}  # noqa: SIM118
    shape = read_shape(folder)
    lower = sum(size for name, size in sizes.items() if "embed" in name or ".layers.0." in name or ".layers.1." in name)
    assert shape.lower_weights(2) == lower
    assert shape.weights == sum(sizes.values())


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ({"num_local_experts": 8}, "of experts"),
        ({"model_type": "bert"}, "KeyError"),
        ([], "expected an object"),
    ],
)
def test_what_is_no_dense_decoder_is_refused(tmp_path: Path, content: object, says: str) -> None:
    (tmp_path / "config.json").write_text(json.dumps(content))
    with pytest.raises(CheckpointError, match=says):
        read_shape(tmp_path)


def test_no_configuration(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"config\.json"):
        read_shape(tmp_path)
