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

    model: Annotated[str, Field(min_length=1)] | None = None
    """Folder or hub name of the model that features are made with, a decoder or a sentence encoder of the BERT family.
    None: the base. Another one costs its own memory and time; it sees the message without the base's chat template."""
    layers: Annotated[tuple[Annotated[int, Field(ge=0)], ...], Field(min_length=1)] | None = None
    """Depths whose hidden states are pooled: 0 the embeddings, i the output of layer i, without a decoder's last norm.
    Only the layers up to the largest are loaded by the router. None: 0 and 2 of the base, the last of another model."""
    poolings: Annotated[tuple[Pooling, ...], Field(min_length=1)] = ("mean",)
    """How each depth's tokens become one vector; several are concatenated."""
    expansion: Annotated[int, Field(ge=0)] = 4096
    """Width of the fixed random ReLU expansion, the router's feature dimension d; its Gram takes 4 d^2 bytes. 0 leaves
    the pooled states as they are."""
    seed: Seed = 0
    """Seed of the expansion; another seed is another, incompatible router."""
    max_tokens: Annotated[int, Field(ge=2)] = 512
    """Prompt tokens looked at, as the model that makes the features counts them; a longer prompt loses its middle."""
    batch_size: Count = 32
    """Prompts in one forward pass; memory grows with it, results do not change beyond rounding."""
    dtype: Literal["float64", "float32", "bfloat16"] = "float64"
    """Precision of the layers. float64 makes features independent of batching, as exact routing needs: all but a few in
    a million are equal, those to float32's last digit. float32 (about 1e-6) and bfloat16 (about 1e-2) are faster and
    smaller, for large models on a GPU."""
    device: Device = "cpu"
    """Where the layers run and are pooled."""

    @model_validator(mode="after")
    def _names_each_once(self) -> Self:
        for key, values in (("layers", self.layers or ()), ("poolings", self.poolings)):
            if len(set(values)) != len(values):
                raise disagreement(key, f"expected each entry once, got {list(values)}")
        return self

    def depths(self, layer_count: int) -> tuple[int, ...]:
        """`layers`, or what None stands for in a model of `layer_count` layers."""
        if self.layers is not None:
            return self.layers
        return (0, 2) if self.model is None else (layer_count,)
