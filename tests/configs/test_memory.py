"""Each term of the memory sum, against numbers worked out by hand and against what a model saves when it trains."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from transformers import LlamaConfig, LlamaForCausalLM

from configs import memory
from configs.loader import load
from configs.memory import ASIDE, CACHE, GIB
from configs.settings import Settings
from learning.model_shape import ModelShape

SMALL = ModelShape(layers=3, hidden=8, query=8, key=4, inner=16, vocabulary=100, tied=False)
# q 64, k and v 32 each, o 64, gate, up and down 128 each, norms 16: 592 a layer; 800 embeddings, as much head, norm 8.
LAYER, WHOLE = 592, 3 * 592 + 2 * 800 + 8
# Widths of the seven modules: 16 + 12 + 12 + 16 + 24 + 24 + 24.
WIDTHS = 128


def settings(*sets: str) -> Settings:
    return load("one_gpu", [*sets])


def test_the_engine_by_hand() -> None:
    chosen = settings(
        "serving.max_loras=2",
        "serving.max_cpu_loras=2",
        "learner.rank=8",
        "serving.max_lora_rank=9",  # kernels are built for 16
        "serving.max_num_seqs=4",
        "serving.engine={max_num_batched_tokens: 10}",
        "serving.kv_cache_bytes=2097152",
        "serving.gpu_memory_utilization=0.001",
        "serving.enforce_eager=true",
    )
    assert memory.engine(chosen, SMALL, 1000) == {
        "base weights": 2 * WHOLE,
        "LoRA slots": 2 * 3 * (16 * 3 * WIDTHS + 2 * 16 * (100 + 8)),
        "a step's activations": 10 * 2 * (4 * 8 + 8 + 2 * 4 + 3 * 16) + 8 * 4 * 100,
        "set aside": ASIDE,
        CACHE: 2097152,
        "asked for at the start, not used": 0,
    }
    assert memory.cache_bytes_per_token(chosen, SMALL) == 2 * 3 * 4 * 2


def test_a_cache_without_a_size_is_what_is_left_of_the_share() -> None:
    terms = memory.engine(
        settings("serving.kv_cache_bytes=null", "serving.gpu_memory_utilization=0.5"), SMALL, 80 * GIB
    )
    assert sum(terms.values()) == 40 * GIB
    assert memory.engine(settings("serving.kv_cache_bytes=null"), SMALL, GIB)[CACHE] < 0


def test_two_gpus_hold_half_the_base_each() -> None:
    halved = memory.engine(settings("serving.engine={tensor_parallel_size: 2}"), SMALL, GIB)
    assert halved["base weights"] == WHOLE


def test_the_features_by_hand() -> None:
    chosen = settings(
        "features.layers=[0, 2]", "features.batch_size=4", "features.max_tokens=10", "features.dtype=float64"
    )
    assert memory.features(chosen, SMALL) == {
        "lower layers": 8 * (800 + 2 * LAYER),
        "a batch's features": 40 * 8 * (3 * 8 + 4 * 8 + 8 + 2 * 4 + 3 * 16) + 8 * 40 * 8,
        "set aside": ASIDE,
    }


LEARNER = ("learner.frozen_layers=1", "features.layers=[0, 1]", "learner.rank=2", "learner.batch_size=4")
SAVED_PER_TOKEN = 18 * 8 + 6 * 8 + 4 * 4 + 8 * 16


@pytest.mark.parametrize(
    ("budget", "checkpointing", "chunk", "tokens", "activations"),
    [
        ("null", "false", 1024, 400, 400 * SAVED_PER_TOKEN * (1 + 2)),
        ("null", "true", 64, 400, 400 * (2 * 8 * 2 + 2 * SAVED_PER_TOKEN)),
        ("150", "true", 64, 150, 150 * (2 * 8 * 2 + 2 * SAVED_PER_TOKEN)),
        ("10", "true", 64, 100, 100 * (2 * 8 * 2 + 2 * SAVED_PER_TOKEN)),  # an example is never divided
    ],
)
def test_the_learner_by_hand(budget: str, checkpointing: str, chunk: int, tokens: int, activations: int) -> None:
    chosen = settings(
        *LEARNER,
        "learner.max_tokens=100",
        f"learner.micro_batch_tokens={budget}",
        f"learner.gradient_checkpointing={checkpointing}",
        f"learner.logit_chunk={chunk}",
        "learner.targets=[q_proj, up_proj]",
    )
    assert memory.learner(chosen, SMALL) == {
        "base weights": 2 * WHOLE,
        "trained weights and optimiser": 20 * 2 * 2 * (16 + 24),
        "activations": activations,
        "logits": 16 * 100 * min(chunk, tokens),
        "set aside": ASIDE,
    }


def saved_bytes(layers: int, dtype: torch.dtype, sizes: dict[str, int]) -> int:
    """Bytes that the backward pass of a Llama with adapters on all modules holds on to, its weights apart."""
    torch.manual_seed(0)
    config = LlamaConfig(num_hidden_layers=layers, head_dim=64, vocab_size=64, max_position_embeddings=512, **sizes)
    bare: Any = LlamaForCausalLM(config)
    targets = list(SMALL.linear)
    model = get_peft_model(bare.to(dtype).requires_grad_(False), LoraConfig(r=1, target_modules=targets)).train()
    weights = {parameter.untyped_storage().data_ptr() for parameter in model.parameters()}
    held: dict[int, torch.Tensor] = {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        if (place := tensor.untyped_storage().data_ptr()) not in weights:
            held[place] = tensor
        return tensor

    narrow = dtype == torch.bfloat16
    with (
        torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor),
        torch.autocast("cpu", dtype=torch.bfloat16, enabled=narrow),
    ):
        states = bare.model(torch.zeros(1, TOKENS, dtype=torch.long)).last_hidden_state
    assert states.requires_grad
    return sum(tensor.untyped_storage().nbytes() for tensor in held.values())


TOKENS = 256


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(("hidden", "heads", "keys", "inner"), [(256, 4, 2, 512), (512, 8, 2, 1024), (256, 8, 4, 2048)])
def test_what_a_layer_saves_is_measured(dtype: torch.dtype, hidden: int, heads: int, keys: int, inner: int) -> None:
    sizes = {
        "hidden_size": hidden,
        "num_attention_heads": heads,
        "num_key_value_heads": keys,
        "intermediate_size": inner,
    }
    measured = saved_bytes(3, dtype, sizes) - saved_bytes(2, dtype, sizes)
    of_each = memory.SAVED[dtype.itemsize]
    told = TOKENS * sum(a * b for a, b in zip(of_each, (hidden, heads * 64, keys * 64, inner), strict=True))
    assert measured == pytest.approx(told, rel=0.05)
