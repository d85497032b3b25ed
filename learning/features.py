"""From rendered prompts to the router's features.

    text -> tokens -> frozen lower layers -> masked pooling -> standardisation -> fixed random expansion -> float32

The layers carry no adapter, so features do not change as domains are learnt. The fingerprint names what a feature
depends on and no more; features with different fingerprints must never meet in one router.

A feature is a float32 number by definition: the last step rounds, once, and what is handed on as float64 is that
number, so that the product of two features is exact. With float64 layers the batching moves what is rounded by about
1e-15 of its size: a feature is the same in any batch, but for the rare one that lies so close to the middle between two
float32 numbers that it may become either. Does not know of domains or of the router.
"""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Sequence

import numpy as np
import torch

from learning import calibration, general
from learning.checkpoint import layer_count, resolve, tokenizer_digest
from learning.errors import TemplateError, TextsWithoutTokens
from learning.expansion import RandomExpansion
from learning.feature_options import FeatureOptions
from learning.pooled_layers import PooledLayers, TokenPooling
from learning.prompt_tokens import CHARACTERS_PER_TOKEN, PromptTokens
from learning.standardisation import Standardisation
from learning.symmetric import Float64
from learning.template import PromptTemplate


class FeatureExtractor:
    """Features of rendered prompts.

    `base` is the base model, whose `template` prompts are rendered with; None stands for prompts that go to the model
    as they are. `options.model`, where set, is the model that makes the features instead. Only its layers up to the
    highest one used are loaded. Without a `standardisation` the features are scaled by that of the calibration text,
    rendered as user messages where the template takes them, and fitted at the first use. `layers`, where given, are
    those of the same model and options, which lie elsewhere. Raises `LearningError` on
    options that the model can't meet, `CheckpointError` on an unusable one.
    """

    def __init__(
        self,
        base: str,
        options: FeatureOptions,
        template: PromptTemplate | None = None,
        standardisation: Standardisation | None = None,
        layers: TokenPooling | None = None,
    ) -> None:
        folder = resolve(options.model or base)
        self.options = options
        self._template = template
        self._standardisation = standardisation
        self._calibrating = threading.Lock()
        self._tokens = PromptTokens(folder, options.max_tokens, template, of_base=options.model is None)
        self._layers = layers if layers is not None else PooledLayers(folder, options)
        self.pooled_dim = self._layers.width
        self._expansion = RandomExpansion(self.pooled_dim, options.expansion, options.seed)
        self._identity = {
            "tokenizer": tokenizer_digest(folder),
            "of_base": options.model is None,
            "model": self._layers.identity,
            "layers": options.depths(layer_count(folder)),
            "poolings": options.poolings,
            "expansion": [RandomExpansion.scheme, options.expansion, options.seed],
            "max_tokens": [options.max_tokens, CHARACTERS_PER_TOKEN],
            "dtype": options.dtype,
            "rounded": "float32",
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
        """Features float64[n, feature_dim] of rendered prompts, in their order; every number is a float32 one.

        They are not finite where the model's own numbers are not, or where they leave float32's range. Raises
        `TextsWithoutTokens`, which names the texts.
        """
        features_ND = self._expansion.apply(self.standardisation.apply(self.pooled(texts)))
        with np.errstate(over="ignore"):  # whoever takes rows looks at whether they are finite
            return features_ND.astype(np.float32).astype(np.float64)

    def general(self) -> Float64:
        """Features float64[n, feature_dim] of the general text (`learning.general`), rendered like the others."""
        return self.extract(_as_rendered(general.prompts(), self._template))

    def fit(self, texts: Sequence[str], name: str = "") -> Standardisation:
        """The standardisation of these texts' pooled features; this extractor is left as it is."""
        # Narrower types round what is computed in float32: what is equal comes out equal.
        precision = torch.finfo(torch.float64 if self.options.dtype == "float64" else torch.float32).eps
        return Standardisation.of(self.pooled(texts), precision=precision, name=name)

    def _calibrated(self) -> Standardisation:
        return self.fit(_as_rendered(calibration.prompts(), self._template), calibration.name())

    def pooled(self, texts: Sequence[str]) -> Float64:
        """Pooled hidden states float64[n, pooled_dim], layer by layer, within a layer pooling by pooling.

        Raises `TextsWithoutTokens`, which names the texts.
        """
        if not texts:
            return np.empty((0, self.pooled_dim))
        tokens = self._tokens.encode(texts)
        empty = [index for index, ids in enumerate(tokens) if not ids]
        if empty:
            raise TextsWithoutTokens(
                f"pooling features: {len(empty)} of {len(texts)} texts have no tokens, first text {empty[0]}; "
                "leave them out, or look at the chat template",
                empty,
            )
        return self._layers.pooled(tokens, self._tokens.padding)


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
