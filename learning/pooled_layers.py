"""A model's lower layers with the pooling over their states: from token ids to one row of numbers a text.

Pooled where the layers lie, so that a row a text leaves their device, and not a row a token. Knows no text, no
standardisation and no expansion.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch

from learning.checkpoint import layer_count
from learning.errors import LearningError
from learning.feature_options import FeatureOptions
from learning.lower_layers import LowerLayers
from learning.packed_layers import PackedLayers
from learning.pooling import pool, pool_packed
from learning.symmetric import Float64
from learning.tokens import batches, pad_right, runs

_TOKENS = 1024
"""Computed at once where texts lie end to end: enough for the products' full speed, and no more to hold."""


class TokenPooling(Protocol):
    """Whoever pools, here or elsewhere."""

    @property
    def width(self) -> int:
        """Numbers a text: layers times poolings times the hidden width."""

    @property
    def identity(self) -> list[Any]:
        """What the numbers depend on beside the options, as JSON values."""

    def pooled(self, tokens: Sequence[list[int]], padding: int) -> Float64:
        """Pooled hidden states float64[n, width] of texts of at least one token, layer by layer, within a layer pooling
        by pooling; `padding` is the token that may stand behind shorter texts."""


class PooledLayers:
    """The layers of the model in `folder` up to the highest one used, on `options.device`. Raises `LearningError` on
    options that the model can't meet, `CheckpointError` on an unusable one."""

    def __init__(self, folder: Path, options: FeatureOptions) -> None:
        self._options, self._depths = options, options.depths(layer_count(folder))
        lower = LowerLayers(folder, max(self._depths), options.dtype, options.device)
        positions = lower.max_positions
        if positions is not None and options.max_tokens > positions:
            raise LearningError(
                f"features.max_tokens: {folder} has {positions} positions, got {options.max_tokens}; lower it"
            )
        self._layers = lower.packed(options.max_tokens) or lower
        self.width = len(self._depths) * len(options.poolings) * lower.hidden_size
        self.identity = lower.identity

    def pooled(self, tokens: Sequence[list[int]], padding: int) -> Float64:
        """As `TokenPooling` has it. Raises `MemoryError` where the device has no room for it."""
        pooled_NP = np.empty((len(tokens), self.width))
        lengths = [len(ids) for ids in tokens]
        if isinstance(self._layers, PackedLayers):
            for together in runs(lengths, self._options.batch_size, _TOKENS):
                states = self._layers.hidden_states(tokens[together], self._depths)
                pooled_NP[together] = pool_packed(states, lengths[together], self._options.poolings)
        else:
            for chosen in batches(lengths, self._options.batch_size):
                pooled_NP[chosen] = self._pooled_batch(self._layers, [tokens[index] for index in chosen], padding)
        return pooled_NP

    @torch.inference_mode()
    def _pooled_batch(self, lower: LowerLayers, tokens: list[list[int]], padding: int) -> Float64:
        ids_BT = pad_right(tokens, padding)
        lengths_B = torch.tensor([len(ids) for ids in tokens])
        states = lower.hidden_states(ids_BT, lengths_B, self._depths)
        try:
            pooled = torch.cat([pool(states_BTH, lengths_B, self._options.poolings) for states_BTH in states], dim=1)
        except torch.OutOfMemoryError as error:
            raise MemoryError(f"pooling {len(tokens)} texts: {error}") from error
        on_host: Float64 = pooled.to("cpu", torch.float64).numpy()
        return on_host
