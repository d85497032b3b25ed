"""How large a decoder is, by its published configuration alone: what it weighs can be told before it is fetched.

A layer of the dense decoders (Llama, Mistral, Qwen 2 and 3 and kin) with hidden width H, query width Q, key and value
width K and inner width I holds

    q: H Q   k, v: 2 H K   o: Q H   gate, up, down: 3 H I   norms: 2 H

weights, and its biases; the model further the embeddings V H, once more where the head is not tied, and a last norm.
Knows no torch, and not what the numbers are for.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from learning.errors import CheckpointError

_EXPERTS = ("num_experts", "num_local_experts", "n_routed_experts")


@dataclass(frozen=True)
class ModelShape:
    """A dense decoder."""

    layers: int
    hidden: int
    query: int
    """Width of all heads' queries together; equally that of the attention's output before `o_proj`."""
    key: int
    """Width of all heads' keys together, and of their values."""
    inner: int
    vocabulary: int
    tied: bool
    """Whether the head is the embeddings."""
    biases: int = 0
    """Weights of a layer's biases and inner norms together."""

    @property
    def linear(self) -> dict[str, tuple[int, int]]:
        """Input and output width of each linear module of a layer, by its name."""
        return {
            "q_proj": (self.hidden, self.query),
            "k_proj": (self.hidden, self.key),
            "v_proj": (self.hidden, self.key),
            "o_proj": (self.query, self.hidden),
            "gate_proj": (self.hidden, self.inner),
            "up_proj": (self.hidden, self.inner),
            "down_proj": (self.inner, self.hidden),
        }

    @property
    def embedding_weights(self) -> int:
        """Weights of the embeddings."""
        return self.vocabulary * self.hidden

    @property
    def layer_weights(self) -> int:
        """Weights of one layer."""
        return sum(wide * high for wide, high in self.linear.values()) + 2 * self.hidden + self.biases

    @property
    def weights(self) -> int:
        """Weights of the whole model."""
        heads = 1 if self.tied else 2
        return heads * self.embedding_weights + self.layers * self.layer_weights + self.hidden

    def lower_weights(self, depth: int) -> int:
        """Weights of the embeddings and the first `depth` layers."""
        return self.embedding_weights + depth * self.layer_weights

    @classmethod
    def of(cls, config: Mapping[str, Any], where: str) -> ModelShape:
        """The shape that the config.json at `where` tells. Raises `CheckpointError` for what is no such decoder."""
        config = config.get("text_config", config)
        if experts := [key for key in _EXPERTS if (config.get(key) or 0) > 1]:
            raise CheckpointError(f"base model {where}: expected a dense decoder, got one of experts ({experts[0]})")
        try:
            heads = int(config["num_attention_heads"])
            head = int(config.get("head_dim") or config["hidden_size"] // heads)
            query, key = heads * head, int(config.get("num_key_value_heads") or heads) * head
            hidden = int(config["hidden_size"])
            kind = config.get("model_type")
            biases = query + 2 * key if kind == "qwen2" or config.get("attention_bias") else 0
            biases += hidden if kind != "qwen2" and config.get("attention_bias") else 0
            biases += 2 * head if kind == "qwen3" else 0
            return cls(
                layers=int(config["num_hidden_layers"]),
                hidden=hidden,
                query=query,
                key=key,
                inner=int(config["intermediate_size"]),
                vocabulary=int(config["vocab_size"]),
                tied=bool(config.get("tie_word_embeddings", False)),
                biases=biases,
            )
        except (KeyError, TypeError, ValueError, ZeroDivisionError) as error:
            raise CheckpointError(
                f"base model {where}: expected a config.json of a dense decoder, got {type(error).__name__}: {error}"
            ) from error


def read_shape(folder: Path) -> ModelShape:
    """The shape of the model in a folder. Raises `CheckpointError`."""
    try:
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise CheckpointError(f"base model {folder}: config.json: {type(error).__name__}: {error}") from error
    if not isinstance(config, dict):
        raise CheckpointError(f"base model {folder}: expected an object in config.json, got {type(config).__name__}")
    return ModelShape.of(config, str(folder))


def _qwen2(layers: int, hidden: int, heads: int, key_heads: int, inner: int, vocabulary: int, tied: bool) -> ModelShape:
    head = hidden // heads
    biases = (heads + 2 * key_heads) * head
    return ModelShape(layers, hidden, hidden, key_heads * head, inner, vocabulary, tied, biases)


PUBLISHED = {
    "Qwen/Qwen2.5-0.5B-Instruct": _qwen2(24, 896, 14, 2, 4864, 151_936, tied=True),
    "Qwen/Qwen2.5-1.5B-Instruct": _qwen2(28, 1536, 12, 2, 8960, 151_936, tied=True),
    "Qwen/Qwen2.5-3B-Instruct": _qwen2(36, 2048, 16, 2, 11_008, 151_936, tied=True),
    "Qwen/Qwen2.5-7B-Instruct": _qwen2(28, 3584, 28, 4, 18_944, 152_064, tied=False),
    "Qwen/Qwen2.5-14B-Instruct": _qwen2(48, 5120, 40, 8, 13_824, 152_064, tied=False),
    "meta-llama/Llama-3.1-8B-Instruct": ModelShape(32, 4096, 4096, 1024, 14_336, 128_256, tied=False),
    "mistralai/Mistral-7B-Instruct-v0.3": ModelShape(32, 4096, 4096, 1024, 14_336, 32_768, tied=False),
}
"""Shapes of models by their hub name, as their published configurations give them: for checks where no model is."""
