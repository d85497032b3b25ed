"""Features of the routing study's texts, by the product's own extractor, pooled once and kept in a cache folder.

One pass of a model gives every depth and pooling that the study compares; what is chosen of them is standardised and
expanded as `learning.features` does it. Knows no router.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from learning import calibration
from learning.expansion import RandomExpansion
from learning.feature_options import FeatureOptions, Pooling
from learning.features import FeatureExtractor
from learning.standardisation import Standardisation
from learning.symmetric import Float64

POOLINGS: tuple[Pooling, ...] = ("mean", "max", "std")
BATCH, TOKENS = 32, 256


@dataclass(frozen=True)
class Model:
    """A model that makes features, and the depths of it that are kept."""

    name: str
    folder: str
    depths: tuple[int, ...]
    encoder: bool
    """Whether it is another model than the base: its tokenizer's special tokens are used."""


@dataclass(frozen=True)
class FeatureMap:
    """What is chosen of a model's pooled states, and how wide it is expanded."""

    model: Model
    depths: tuple[int, ...]
    poolings: tuple[Pooling, ...] = ("mean",)
    width: int = 2048
    seed: int = 0

    def described(self) -> dict[str, object]:
        """As it goes into the result file."""
        return {
            "model": self.model.name,
            "layers": list(self.depths),
            "poolings": list(self.poolings),
            "expansion": self.width,
            "seed": self.seed,
        }


class PooledTexts:
    """Pooled states of texts, made at the first use and kept as float32 in `folder`."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._open: dict[str, FeatureExtractor] = {}
        folder.mkdir(parents=True, exist_ok=True)

    def pooled(self, model: Model, texts: Sequence[str]) -> np.ndarray:
        """float32[n, depths, poolings, width of the model]."""
        digest = hashlib.sha256("\0".join(texts).encode()).hexdigest()[:16]
        path = self._folder / f"{model.name}-{digest}.npy"
        if not path.exists():
            found = self._extractor(model).pooled(texts).astype(np.float32)
            np.save(path, found.reshape(len(texts), len(model.depths), len(POOLINGS), -1))
        kept: np.ndarray = np.load(path, mmap_mode="r")
        return kept

    def features(self, of: FeatureMap, scaling: Sequence[str] = ()) -> Callable[[Sequence[str]], Float64]:
        """The map from texts to float64[n, d]; its scale is that of the calibration text, or of `scaling`."""
        inputs = self._chosen(of, scaling or calibration.prompts())
        standardisation = Standardisation.of(inputs, precision=float(np.finfo(np.float32).eps))
        expansion = RandomExpansion(inputs.shape[1], of.width, of.seed)

        def apply(texts: Sequence[str]) -> Float64:
            expanded = expansion.apply(standardisation.apply(self._chosen(of, texts)))
            return expanded.astype(np.float32).astype(np.float64)

        return apply

    def _chosen(self, of: FeatureMap, texts: Sequence[str]) -> Float64:
        kept = self.pooled(of.model, texts)
        depths = [of.model.depths.index(depth) for depth in of.depths]
        poolings = [POOLINGS.index(pooling) for pooling in of.poolings]
        return kept[:, depths][:, :, poolings].reshape(len(texts), -1).astype(np.float64)

    def _extractor(self, model: Model) -> FeatureExtractor:
        if model.name not in self._open:
            options = FeatureOptions(
                model=model.folder if model.encoder else None,
                layers=model.depths,
                poolings=POOLINGS,
                expansion=0,
                max_tokens=TOKENS,
                batch_size=BATCH,
                dtype="float32",
            )
            self._open[model.name] = FeatureExtractor(model.folder, options)
        return self._open[model.name]
