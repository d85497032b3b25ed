"""Which models are taken, and with which words the others are refused."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from transformers import AutoConfig, AutoModelForCausalLM

from learning.architecture import check_supported, is_encoder, read_config, what_features_depend_on
from learning.checkpoint import layer_count
from learning.errors import CheckpointError
from learning.lower_layers import LowerLayers
from tests.learning.bases import write_tokenizer

TINY = {"vocab_size": 260, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4}


@pytest.mark.parametrize(
    "kind", ["llama", "mistral", "qwen2", "qwen3", "gemma2", "gemma3_text", "olmo2", "granite", "smollm3"]
)
def test_dense_decoders_are_taken(kind: str) -> None:
    check_supported(AutoConfig.for_model(kind).to_dict(), "base")


@pytest.mark.parametrize("kind", ["mixtral", "qwen3_moe", "qwen3_next", "deepseek_v3", "granitemoe", "gpt_oss"])
def test_mixtures_of_experts_are_refused(kind: str) -> None:
    with pytest.raises(CheckpointError, match=rf"^base \(model_type {kind}\): expected a dense decoder, .*experts"):
        check_supported(AutoConfig.for_model(kind).to_dict(), "base")


@pytest.mark.parametrize(
    ("config", "words"),
    [
        ({"model_type": "t5", "is_encoder_decoder": True}, "got an encoder-decoder"),
        ({"model_type": "bert"}, "got an encoder, which can't answer"),
        ({"model_type": "gemma3n", "text_config": {"hidden_size_per_layer_input": 256}}, "inputs of their own"),
        ({"model_type": "llama", "quantization_config": {"quant_method": "awq"}}, r"quantised checkpoint \(awq\)"),
        ({"model_type": "llama4", "text_config": {"num_local_experts": 16}}, "mixture of experts"),
    ],
)
def test_other_kinds_are_refused_in_their_own_words(config: dict[str, Any], words: str) -> None:
    with pytest.raises(CheckpointError, match=words):
        check_supported(config, "base")


def test_a_key_of_experts_without_any_is_no_mixture() -> None:
    check_supported({"model_type": "gemma4_text", "num_experts": None, "num_local_experts": 0}, "base")


def test_encoders_are_told_from_decoders() -> None:
    assert is_encoder({"model_type": "bert"}) and not is_encoder({"model_type": "bert", "is_decoder": True})
    assert not is_encoder({"model_type": "llama"})


@pytest.mark.parametrize(
    ("kind", "words"),
    [
        ("mixtral", "mixture of experts"),
        ("gpt2", r"expected `layers` and `norm` in it, got GPT2Model with \['drop', 'h'"),
        ("gpt_neox", "expected `layers` and `norm` in it, got GPTNeoXModel"),
    ],
)
def test_lower_layers_refuse_them_too(tmp_path: Path, kind: str, words: str) -> None:
    write_tokenizer(tmp_path)
    AutoModelForCausalLM.from_config(AutoConfig.for_model(kind, **TINY)).save_pretrained(tmp_path)
    with pytest.raises(CheckpointError, match=words):
        LowerLayers(tmp_path, 1, "float32", "cpu")


@pytest.mark.parametrize("content", [None, "{", "[]"])
def test_a_config_that_cannot_be_read_is_refused(tmp_path: Path, content: str | None) -> None:
    if content is not None:
        (tmp_path / "config.json").write_text(content)
    with pytest.raises(CheckpointError, match=r"expected a config\.json with a JSON object"):
        read_config(tmp_path)


def test_layers_are_counted_in_the_part_about_text(tmp_path: Path, llama: Path) -> None:
    assert layer_count(llama) == 4
    (tmp_path / "config.json").write_text(json.dumps({"text_config": {"num_hidden_layers": 7}}))
    assert layer_count(tmp_path) == 7
    shutil.copy(llama / "tokenizer.json", tmp_path)
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(CheckpointError, match="num_hidden_layers, got None"):
        layer_count(tmp_path)


def test_of_the_kinds_of_layers_those_below_count() -> None:
    config = {"layer_types": ["a", "b", "c"], "rope_theta": 1.0, "top_k": 3}
    assert what_features_depend_on(config, 2) == {"layer_types": ["a", "b"], "rope_theta": 1.0}
