"""A GGUF file gives the model that was written into it: the same weights, the same tokens, an ordinary folder."""

from __future__ import annotations

import json
from pathlib import Path

import gguf
import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from tokenizers import Tokenizer, models, pre_tokenizers, trainers
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaConfig, LlamaForCausalLM

from learning.dequantised import write_folder

WORDS = ["the capital of france is paris", "name three colours", "what is the sea"] * 4
CHAT = "{% for message in messages %}{{ message['content'] }}{% endfor %}"
HEADS, KEY_HEADS = 4, 2
NAMES = {
    "model.embed_tokens": "token_embd",
    "model.norm": "output_norm",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
    "input_layernorm": "attn_norm",
    "post_attention_layernorm": "ffn_norm",
    "model.layers": "blk",
    "lm_head": "output",
}


def llama(vocabulary: int, tied: bool) -> LlamaForCausalLM:
    torch.manual_seed(5)
    return LlamaForCausalLM(
        LlamaConfig(
            hidden_size=64,
            intermediate_size=96,
            num_hidden_layers=2,
            num_attention_heads=HEADS,
            num_key_value_heads=KEY_HEADS,
            vocab_size=vocabulary,
            max_position_embeddings=256,
            rms_norm_eps=1e-5,
            tie_word_embeddings=tied,
        )
    )


def tokenizer() -> Tokenizer:
    made = Tokenizer(models.BPE())
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=320, special_tokens=["<|begin|>", "<|end|>"], initial_alphabet=alphabet)
    made.train_from_iterator(WORDS, trainer)
    return made


def as_llama_cpp_lays_it(name: str, weight: np.ndarray) -> np.ndarray:
    """llama.cpp turns pairs of neighbours where transformers turns halves, so rows of q and k lie otherwise."""
    heads = HEADS if "q_proj" in name else KEY_HEADS if "k_proj" in name else 0
    if not heads:
        return weight
    halves = weight.reshape(heads, 2, weight.shape[0] // heads // 2, *weight.shape[1:])
    return np.ascontiguousarray(halves.swapaxes(1, 2).reshape(weight.shape))


def write_gguf(file: Path, model: LlamaForCausalLM, words: Tokenizer, kind: gguf.GGMLQuantizationType) -> None:
    writer, config = gguf.GGUFWriter(file, "llama"), model.config
    writer.add_block_count(config.num_hidden_layers)
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(HEADS)
    writer.add_head_count_kv(KEY_HEADS)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_rope_freq_base(10_000.0)
    writer.add_vocab_size(config.vocab_size)
    saved = json.loads(words.to_str())["model"]
    tokens = sorted(saved["vocab"], key=saved["vocab"].get)
    writer.add_tokenizer_model("gpt2")
    writer.add_token_list(tokens)
    writer.add_token_types([gguf.TokenType.CONTROL if t.startswith("<|") else gguf.TokenType.NORMAL for t in tokens])
    writer.add_token_merges([" ".join(pair) for pair in saved["merges"]])
    writer.add_bos_token_id(0)
    writer.add_eos_token_id(1)
    writer.add_chat_template(CHAT)
    for name, tensor in model.state_dict().items():
        if name == "lm_head.weight" and config.tie_word_embeddings:
            continue
        laid = as_llama_cpp_lays_it(name, tensor.numpy())
        short = name
        for long, brief in NAMES.items():
            short = short.replace(long, brief)
        if laid.ndim == 1:
            writer.add_tensor(short, laid)
        else:
            writer.add_tensor(short, gguf.quants.quantize(laid, kind), raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("kind", [gguf.GGMLQuantizationType.F32, gguf.GGMLQuantizationType.Q4_1])
def test_weights_configuration_and_words_come_back(
    tmp_path: Path, kind: gguf.GGMLQuantizationType, tied: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    words = tokenizer()
    model = llama(words.get_vocab_size(), tied)
    write_gguf(tmp_path / "model.gguf", model, words, kind)
    folder = tmp_path / "folder"
    folder.mkdir()
    write_folder(tmp_path / "model.gguf", folder)
    assert capsys.readouterr().err == ""

    written = load_file(folder / "model.safetensors")
    expected = {name: tensor for name, tensor in model.state_dict().items() if not (tied and "lm_head" in name)}
    assert written.keys() == expected.keys()
    for name, tensor in expected.items():
        if tensor.ndim == 2:
            rows = gguf.quants.dequantize(gguf.quants.quantize(tensor.numpy(), kind), kind)
            tensor = torch.from_numpy(rows)
        assert torch.equal(written[name], tensor.to(torch.bfloat16)), name

    config = json.loads((folder / "config.json").read_text())
    assert config["architectures"] == ["LlamaForCausalLM"] and config["rms_norm_eps"] == 1e-5
    assert "quantization_config" not in config and config["dtype"] == "bfloat16"
    loaded = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    read = AutoTokenizer.from_pretrained(folder)
    ids = read(WORDS[0], return_tensors="pt")["input_ids"]
    assert ids[0].tolist() == words.encode(WORDS[0]).ids
    assert read.chat_template == CHAT and read.model_max_length == 256
    assert str(tmp_path) not in (folder / "tokenizer_config.json").read_text()
    if kind == gguf.GGMLQuantizationType.F32:
        with torch.no_grad():
            exact, found = model.eval()(ids).logits, loaded(ids).logits
        assert torch.allclose(found, exact, atol=2e-2 * float(exact.abs().max()))
