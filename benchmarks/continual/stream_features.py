"""Features of all rows of a stream's tasks, made once and kept in a file. Knows no router.

Pooled ones are standardised by the calibration text, as the service does it before it expands them; expanded ones are
what its router takes. Both by the layers that no method may change.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import ValidationError
from safetensors.numpy import load_file, save_file

from benchmarks.continual.method import Task
from benchmarks.continual.router import Features
from cluster.errors import ClusterError
from learning.expansion import RandomExpansion
from learning.feature_options import FeatureOptions
from learning.features import FeatureExtractor
from learning.symmetric import Float64
from learning.template import PromptTemplate


def stream_features(
    base: str, template: PromptTemplate, settings: Mapping[str, Any], texts: Sequence[str], folder: Path
) -> Features:
    """Of rendered prompts, in their order. Raises `ClusterError` on settings that are none."""
    try:
        options = FeatureOptions.model_validate(dict(settings))
    except ValidationError as error:
        first = error.errors()[0]
        raise ClusterError(f"settings of features: {'.'.join(map(str, first['loc']))}: {first['msg']}") from None
    extractor = FeatureExtractor(base, options, template)
    name = hashlib.sha256("\0".join([extractor.fingerprint, *texts]).encode()).hexdigest()[:24]
    path = folder / f"features-{name}.safetensors"
    if not path.is_file():
        folder.mkdir(parents=True, exist_ok=True)
        pooled_ND = extractor.standardisation.apply(extractor.pooled(texts))
        partial = path.with_suffix(f".{os.getpid()}")
        save_file({"pooled": pooled_ND}, partial)
        partial.rename(path)
    pooled_ND = load_file(path)["pooled"]
    expanded_NE = RandomExpansion(extractor.pooled_dim, options.expansion, options.seed).apply(pooled_ND)
    return Features(pooled_ND, expanded_NE.astype(np.float32).astype(np.float64))


class TaskFeatures:
    """The features of each task's rows, to learn from and to be judged by."""

    def __init__(self, features: Features, tasks: Sequence[Task], judged: Mapping[str, int]) -> None:
        """`features` of what `prompts` lists; `judged`: rows of each task to be judged by."""
        self._parts: dict[str, tuple[Features, Features]] = {}
        start = 0
        for task in tasks:
            middle, end = start + len(task.train), start + len(task.train) + judged[task.name]
            self._parts[task.name] = _part(features, start, middle), _part(features, middle, end)
            start = end

    def train(self, task: str) -> Features:
        """Of the training rows."""
        return self._parts[task][0]

    def judged(self, task: str) -> Features:
        """Of the rows to be judged by."""
        return self._parts[task][1]


def _part(features: Features, start: int, end: int) -> Features:
    def rows(array: Float64) -> Float64:
        return array[start:end]

    return Features(rows(features.pooled_ND), rows(features.expanded_NE))
