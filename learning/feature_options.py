"""What a feature map is made with; all but `batch_size` and `device` is part of its fingerprint.

Each knob stands here once, with its unit and what follows from it; settings inherit it as it is. Knows no torch.
"""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from learning.options import Count, Device, Options, Seed, disagreement

Pooling = Literal["mean", "max", "std", "last"]


class FeatureOptions(Options):
    """The frozen map from a prompt to the row the router learns from."""

    layers: Annotated[tuple[Annotated[int, Field(ge=0)], ...], Field(min_length=1)] = (0, 2)
    """Depths whose hidden states are pooled: 0 the embeddings, i the output of decoder layer i, without the last norm.
    Only the layers up to the largest are loaded by the router."""
    poolings: Annotated[tuple[Pooling, ...], Field(min_length=1)] = ("mean",)
    """How each depth's tokens become one vector; several are concatenated."""
    expansion: Annotated[int, Field(ge=0)] = 4096
    """Width of the fixed random ReLU expansion, the router's feature dimension d; its Gram takes 4 d^2 bytes. 0 leaves
    the pooled states as they are."""
    seed: Seed = 0
    """Seed of the expansion; another seed is another, incompatible router."""
    max_tokens: Annotated[int, Field(ge=2)] = 512
    """Prompt tokens looked at; a longer prompt loses its middle."""
    batch_size: Count = 32
    """Prompts in one forward pass; memory grows with it, results do not change beyond rounding."""
    dtype: Literal["float64", "float32", "bfloat16"] = "float64"
    """Precision of the lower layers. float64 makes features independent of batching to about 1e-12, as exact routing
    needs; float32 (about 1e-6) and bfloat16 (about 1e-2) are faster and smaller, for large bases on a GPU."""
    device: Device = "cpu"
    """Where the lower layers run."""

    @model_validator(mode="after")
    def _names_each_once(self) -> Self:
        for key, values in (("layers", self.layers), ("poolings", self.poolings)):
            if len(set(values)) != len(values):
                raise disagreement(key, f"expected each entry once, got {list(values)}")
        return self
