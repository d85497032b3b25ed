"""From rendered prompts to the router's features.

    text -> tokens -> frozen lower layers -> masked pooling -> standardisation -> fixed random expansion -> float64

The lower layers carry no adapter, so features do not change as domains are learnt. The fingerprint names everything
that a feature depends on; features with different fingerprints must never meet in one router. In float64 features do
not depend, beyond rounding at 1e-12, on which prompts share a batch. Does not know of domains or of the router.
"""

from __future__ import annotations

import copy
import hashlib
import json
from collections.abc import Callable, Sequence
from typing import Literal

import numpy as np
import torch
from torch import Tensor
from transformers import AutoTokenizer

from learning.checkpoint import base_digest as base_digest
from learning.checkpoint import resolve
from learning.errors import LearningError
from learning.expansion import RandomExpansion
from learning.lower_layers import DTYPES, LowerLayers
from learning.standardisation import Standardisation as Standardisation
from learning.symmetric import Float64
from learning.tokens import pad_right, shorten

Pooling = Literal["mean", "max", "std", "last"]


class FeatureExtractor:
    """Features of rendered prompts.

    `layers`: 0 is the embeddings, i the output of decoder layer i, without the last norm; only the first max(layers)
    layers are loaded. `expansion`: width of the random features, 0 for none. `max_tokens`: longer prompts lose their
    middle. `template_digest` only enters the fingerprint. `standardisation` is needed by `extract` alone.
    Raises `LearningError` on arguments that make no features, `CheckpointError` on an unusable base model.
    """

    def __init__(
        self,
        model_path: str,
        *,
        layers: Sequence[int],
        poolings: Sequence[Pooling],
        expansion: int,
        seed: int,
        max_tokens: int = 512,
        batch_size: int = 32,
        dtype: Literal["float64", "float32", "bfloat16"] = "float64",
        device: str = "cpu",
        template_digest: str = "",
        standardisation: Standardisation | None = None,
    ) -> None:
        _check(layers, poolings, expansion, max_tokens, batch_size, dtype)
        folder = resolve(model_path)
        self.layers = tuple(layers)
        self.poolings = tuple(poolings)
        self.standardisation = standardisation
        self._max_tokens = max_tokens
        self._batch_size = batch_size
        self._tokenizer = AutoTokenizer.from_pretrained(folder)
        self._lower = LowerLayers(folder, max(layers), dtype, device)
        positions = self._lower.max_positions
        if positions is not None and max_tokens > positions:
            raise LearningError(f"max_tokens: the base model has {positions} positions, got {max_tokens}")
        self.pooled_dim = len(layers) * len(poolings) * self._lower.hidden_size
        self._expansion = RandomExpansion(self.pooled_dim, expansion, seed)
        self._identity = {
            "base": base_digest(folder),
            "layers": self.layers,
            "last_norm": False,
            "poolings": self.poolings,
            "expansion": [RandomExpansion.scheme, expansion, seed],
            "max_tokens": max_tokens,
            "dtype": dtype,
            "template": template_digest,
        }

    @property
    def feature_dim(self) -> int:
        """Width of `extract`'s result."""
        return self._expansion.dim

    @property
    def fingerprint(self) -> str:
        """sha256 over everything a feature depends on, the standardisation included."""
        digest = self.standardisation.digest if self.standardisation else None
        content = json.dumps({**self._identity, "standardisation": digest}, sort_keys=True)
        return hashlib.sha256(content.encode()).hexdigest()

    def extract(self, texts: Sequence[str]) -> Float64:
        """Features float64[n, feature_dim] of rendered prompts, in their order.

        Raises `LearningError` without a standardisation or for a text without tokens.
        """
        if self.standardisation is None:
            raise LearningError(
                "extracting features: no standardisation; fit one and use `with_standardisation`, or pass one"
            )
        return self._expansion.apply(self.standardisation.apply(self.pooled(texts)))

    def fit(self, texts: Sequence[str]) -> Standardisation:
        """The standardisation of these texts' pooled features; this extractor is left as it is."""
        return Standardisation.of(self.pooled(texts))

    def with_standardisation(self, standardisation: Standardisation) -> FeatureExtractor:
        """An extractor with this standardisation that shares the weights."""
        other = copy.copy(self)
        other.standardisation = standardisation
        return other

    def pooled(self, texts: Sequence[str]) -> Float64:
        """Pooled hidden states float64[n, pooled_dim], layer by layer, within a layer pooling by pooling."""
        pooled_NP = np.empty((len(texts), self.pooled_dim))
        if not texts:
            return pooled_NP
        encoded = self._tokenizer(list(texts), add_special_tokens=False)["input_ids"]
        empty = [index for index, ids in enumerate(encoded) if not ids]
        if empty:
            raise LearningError(f"pooling features: text {empty[0]} of {len(texts)} has no tokens; render it first")
        tokens = [shorten(ids, self._max_tokens) for ids in encoded]
        order = sorted(range(len(tokens)), key=lambda index: len(tokens[index]))
        for start in range(0, len(order), self._batch_size):
            chosen = order[start : start + self._batch_size]
            pooled_NP[chosen] = self._pooled_batch([tokens[index] for index in chosen])
        return pooled_NP

    def _pooled_batch(self, tokens: list[list[int]]) -> Float64:
        ids_BT = pad_right(tokens, 0)  # what stands in the padding is never looked at
        lengths_B = torch.tensor([len(ids) for ids in tokens])
        mask_BT = torch.arange(ids_BT.shape[1]) < lengths_B[:, None]
        parts: list[Tensor] = []
        for states_BTH in self._lower.hidden_states(ids_BT, self.layers):
            exact_BTH = states_BTH.to("cpu", torch.float64)
            parts.extend(_POOLINGS[pooling](exact_BTH, mask_BT, lengths_B) for pooling in self.poolings)
        pooled: Float64 = torch.cat(parts, dim=1).numpy()
        return pooled


def _mean(states_BTH: Tensor, mask_BT: Tensor, lengths_B: Tensor) -> Tensor:
    return (states_BTH * mask_BT[:, :, None]).sum(dim=1) / lengths_B[:, None]


def _max(states_BTH: Tensor, mask_BT: Tensor, lengths_B: Tensor) -> Tensor:
    return states_BTH.masked_fill(~mask_BT[:, :, None], -torch.inf).amax(dim=1)


def _std(states_BTH: Tensor, mask_BT: Tensor, lengths_B: Tensor) -> Tensor:
    centred_BTH = states_BTH - _mean(states_BTH, mask_BT, lengths_B)[:, None, :]
    return _mean(centred_BTH.square(), mask_BT, lengths_B).sqrt()


def _last(states_BTH: Tensor, mask_BT: Tensor, lengths_B: Tensor) -> Tensor:
    return states_BTH[torch.arange(len(lengths_B)), lengths_B - 1]


_POOLINGS: dict[str, Callable[[Tensor, Tensor, Tensor], Tensor]] = {
    "mean": _mean,
    "max": _max,
    "std": _std,
    "last": _last,
}


def _check(
    layers: Sequence[int], poolings: Sequence[str], expansion: int, max_tokens: int, batch_size: int, dtype: str
) -> None:
    if not layers or min(layers) < 0 or len(set(layers)) != len(layers):
        raise LearningError(f"layers: expected distinct layer numbers from 0, got {list(layers)}")
    unknown = sorted(set(poolings) - set(_POOLINGS))
    if not poolings or unknown or len(set(poolings)) != len(poolings):
        raise LearningError(f"poolings: expected distinct ones of {sorted(_POOLINGS)}, got {list(poolings)}")
    if expansion < 0 or max_tokens < 2 or batch_size < 1:
        raise LearningError(
            "expansion, max_tokens, batch_size: expected at least 0, 2 and 1, "
            f"got {expansion}, {max_tokens} and {batch_size}"
        )
    if dtype not in DTYPES:
        raise LearningError(f"dtype: expected one of {sorted(DTYPES)}, got {dtype!r}")
