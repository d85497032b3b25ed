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
import threading
from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor
from transformers import AutoTokenizer

from learning import calibration
from learning.checkpoint import base_digest, resolve
from learning.errors import LearningError, TemplateError, TextsWithoutTokens
from learning.expansion import RandomExpansion
from learning.feature_options import FeatureOptions
from learning.lower_layers import LowerLayers
from learning.standardisation import Standardisation
from learning.symmetric import Float64
from learning.template import PromptTemplate
from learning.tokens import pad_right, shorten


class FeatureExtractor:
    """Features of rendered prompts.

    Only the decoder layers up to the highest one used are loaded. `template` is what prompts are rendered with; None
    stands for prompts that go to the model as they are. Without a `standardisation` the features are scaled by that of
    the calibration text, rendered as user messages where the template takes them, and fitted at the first use. Raises
    `LearningError` on options that this base can't meet, `CheckpointError` on an unusable base model.
    """

    def __init__(
        self,
        model_path: str,
        options: FeatureOptions,
        template: PromptTemplate | None = None,
        standardisation: Standardisation | None = None,
    ) -> None:
        folder = resolve(model_path)
        self.options = options
        self._template = template
        self._standardisation = standardisation
        self._calibrating = threading.Lock()
        self._tokenizer = AutoTokenizer.from_pretrained(folder)
        self._lower = LowerLayers(folder, max(options.layers), options.dtype, options.device)
        positions = self._lower.max_positions
        if positions is not None and options.max_tokens > positions:
            raise LearningError(f"max_tokens: the base model has {positions} positions, got {options.max_tokens}")
        self.pooled_dim = len(options.layers) * len(options.poolings) * self._lower.hidden_size
        self._expansion = RandomExpansion(self.pooled_dim, options.expansion, options.seed)
        self._identity = {
            "base": base_digest(folder),
            "layers": options.layers,
            "last_norm": False,
            "poolings": options.poolings,
            "expansion": [RandomExpansion.scheme, options.expansion, options.seed],
            "max_tokens": options.max_tokens,
            "dtype": options.dtype,
            "template": template.digest if template else "",
        }

    @property
    def feature_dim(self) -> int:
        """Width of `extract`'s result."""
        return self._expansion.dim

    @property
    def fingerprint(self) -> str:
        """sha256 over everything a feature depends on, the standardisation included."""
        digest = self._standardisation.digest if self._standardisation else calibration.name()
        content = json.dumps({**self._identity, "standardisation": digest}, sort_keys=True)
        return hashlib.sha256(content.encode()).hexdigest()

    @property
    def standardisation(self) -> Standardisation:
        """The one given, or that of the calibration text, which the first use computes."""
        with self._calibrating:
            if self._standardisation is None:
                self._standardisation = self._calibrated()
            return self._standardisation

    def extract(self, texts: Sequence[str]) -> Float64:
        """Features float64[n, feature_dim] of rendered prompts, in their order.

        They are not finite where the model's own numbers are not. Raises `TextsWithoutTokens`, which names the texts.
        """
        return self._expansion.apply(self.standardisation.apply(self.pooled(texts)))

    def fit(self, texts: Sequence[str], name: str = "") -> Standardisation:
        """The standardisation of these texts' pooled features; this extractor is left as it is."""
        # Narrower types round what is computed in float32: what is equal comes out equal.
        precision = torch.finfo(torch.float64 if self.options.dtype == "float64" else torch.float32).eps
        return Standardisation.of(self.pooled(texts), precision=precision, name=name)

    def with_standardisation(self, standardisation: Standardisation) -> FeatureExtractor:
        """An extractor with this standardisation that shares the weights."""
        other = copy.copy(self)
        other._standardisation = standardisation
        return other

    def _calibrated(self) -> Standardisation:
        return self.fit(_as_rendered(calibration.prompts(), self._template), calibration.name())

    def pooled(self, texts: Sequence[str]) -> Float64:
        """Pooled hidden states float64[n, pooled_dim], layer by layer, within a layer pooling by pooling.

        Raises `TextsWithoutTokens`, which names the texts.
        """
        pooled_NP = np.empty((len(texts), self.pooled_dim))
        if not texts:
            return pooled_NP
        encoded = self._tokenizer(list(texts), add_special_tokens=False)["input_ids"]
        empty = [index for index, ids in enumerate(encoded) if not ids]
        if empty:
            raise TextsWithoutTokens(
                f"pooling features: {len(empty)} of {len(texts)} texts have no tokens, first text {empty[0]}; "
                "leave them out, or look at the chat template",
                empty,
            )
        tokens = [shorten(ids, self.options.max_tokens) for ids in encoded]
        order = sorted(range(len(tokens)), key=lambda index: len(tokens[index]))
        for start in range(0, len(order), self.options.batch_size):
            chosen = order[start : start + self.options.batch_size]
            pooled_NP[chosen] = self._pooled_batch([tokens[index] for index in chosen])
        return pooled_NP

    def _pooled_batch(self, tokens: list[list[int]]) -> Float64:
        ids_BT = pad_right(tokens, 0)  # what stands in the padding is never looked at
        lengths_B = torch.tensor([len(ids) for ids in tokens])
        mask_BT = torch.arange(ids_BT.shape[1]) < lengths_B[:, None]
        parts: list[Tensor] = []
        for states_BTH in self._lower.hidden_states(ids_BT, self.options.layers):
            exact_BTH = states_BTH.to("cpu", torch.float64)
            parts.extend(_POOLINGS[pooling](exact_BTH, mask_BT, lengths_B) for pooling in self.options.poolings)
        pooled: Float64 = torch.cat(parts, dim=1).numpy()
        return pooled


def _as_rendered(prompts: Sequence[str], template: PromptTemplate | None) -> Sequence[str]:
    """Prompts as user messages, or as they are where the template refuses or loses one, or renders by the clock.

    Which of the two follows from the template alone, whose digest is in the fingerprint.
    """
    if template is None or template.tells_time:
        return prompts
    try:
        rendered = [template.render([{"role": "user", "content": prompt}]) for prompt in prompts]
    except TemplateError:
        return prompts
    return rendered if all(prompt in text for prompt, text in zip(prompts, rendered, strict=True)) else prompts


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
