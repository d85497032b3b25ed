"""Routers without back-propagation: the service's analytic one and its rivals. Each sees a task's rows once.

- `analytic`, `lda`: the service's router (`learning.rls`) by two of its heads;
- `joint_ridge`: the ridge solved over all rows kept, the oracle that the analytic one equals (up to rounding);
- `centroid`: the nearest mean of pooled features, as in ARIADNE (arXiv 2606.19079, of which only the idea was read).

Knows no method.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import load_file, save_file
from scipy.linalg import cho_factor, cho_solve

from benchmarks.continual.router import Features
from learning.rls import StreamingRidge
from learning.router_options import Head
from learning.symmetric import Float64, packed_length

_ROUTER = "router.safetensors"
_TASKS = "tasks.json"
RIDGE = 100.0


def analytic(label: str, settings: Mapping[str, Any], seed: int) -> AnalyticRouter:
    """With the service's default head."""
    return AnalyticRouter(label, float(settings.get("ridge", RIDGE)), "ridge")


def lda(label: str, settings: Mapping[str, Any], seed: int) -> AnalyticRouter:
    """With a discriminant of a covariance that all tasks share."""
    return AnalyticRouter(label, float(settings.get("ridge", RIDGE)), "lda")


def joint_ridge(label: str, settings: Mapping[str, Any], seed: int) -> JointRidgeRouter:
    """With the same ridge."""
    return JointRidgeRouter(label, float(settings.get("ridge", RIDGE)))


def centroid(label: str, settings: Mapping[str, Any], seed: int) -> CentroidRouter:
    """Has nothing to be set."""
    return CentroidRouter(label)


class AnalyticRouter:
    """Exact sums, weights solved from them when they are asked for."""

    def __init__(self, label: str, ridge: float, head: Head) -> None:
        self.label = label
        self._settings = ridge, head
        self._router: StreamingRidge | None = None

    def learn(self, features: Features, task: str) -> None:
        """Adds the rows to the sums."""
        if self._router is None:
            ridge, head = self._settings
            self._router = StreamingRidge(features.expanded_NE.shape[1], ridge, head=head)
        self._router.observe(features.expanded_NE, [task] * len(features.expanded_NE))

    def route(self, features: Features) -> Sequence[str]:
        """By the highest score."""
        weights = _learned(self._router).weights()
        return [weights.domains[place] for place in weights.scores(features.expanded_NE).argmax(axis=1)]

    def stored_bytes(self) -> int:
        """Of A's triangle, a sum vector and a count a task, and the weights; keeping rows for removals is not asked."""
        router = _learned(self._router)
        return 8 * (packed_length(router.feature_dim) + len(router.domains) * (2 * router.feature_dim + 1))

    def save(self, folder: Path) -> None:
        """As the service's snapshot has it."""
        folder.mkdir(parents=True)
        (folder / _ROUTER).write_bytes(_learned(self._router).to_bytes())

    def load(self, folder: Path) -> None:
        """The inverse."""
        self._router = StreamingRidge.from_bytes((folder / _ROUTER).read_bytes())


class _Labelled:
    """What the routers below keep: arrays by task, in the order of learning."""

    def __init__(self, label: str) -> None:
        self.label = label
        self._kept: dict[str, Float64] = {}

    def stored_bytes(self) -> int:
        """Of all arrays."""
        return sum(array.nbytes for array in self._kept.values())

    def save(self, folder: Path) -> None:
        """An array a task."""
        folder.mkdir(parents=True)
        arrays = {str(place): np.ascontiguousarray(array) for place, array in enumerate(self._kept.values())}
        save_file(arrays, folder / _ROUTER)
        (folder / _TASKS).write_text(json.dumps(list(self._kept)) + "\n", encoding="utf-8")

    def load(self, folder: Path) -> None:
        """The inverse."""
        arrays = load_file(folder / _ROUTER)
        tasks = json.loads((folder / _TASKS).read_text(encoding="utf-8"))
        self._kept = {task: arrays[str(place)] for place, task in enumerate(tasks)}


class JointRidgeRouter(_Labelled):
    """Keeps every row, and solves over all of them at each call."""

    def __init__(self, label: str, ridge: float) -> None:
        super().__init__(label)
        self._ridge = ridge
        self._weight_EK: Float64 | None = None

    def learn(self, features: Features, task: str) -> None:
        """Keeps the rows, beside those that the task has."""
        before = self._kept.get(task)
        rows_NE = features.expanded_NE
        self._kept[task] = rows_NE if before is None else np.concatenate([before, rows_NE])
        self._weight_EK = None

    def route(self, features: Features) -> Sequence[str]:
        """By the highest score."""
        names = list(self._kept)
        if self._weight_EK is None:
            self._weight_EK = self._solved()
        return [names[place] for place in (features.expanded_NE @ self._weight_EK).argmax(axis=1)]

    def _solved(self) -> Float64:
        rows_NE = np.concatenate(list(self._kept.values()))
        labels_N = np.repeat(np.arange(len(self._kept)), [len(rows) for rows in self._kept.values()])
        gram_EE = rows_NE.T @ rows_NE
        gram_EE.flat[:: len(gram_EE) + 1] += self._ridge
        factor = cho_factor(gram_EE, lower=True, overwrite_a=True, check_finite=False)
        weight_EK: Float64 = cho_solve(factor, rows_NE.T @ np.eye(len(self._kept))[labels_N], check_finite=False)
        return weight_EK


class CentroidRouter(_Labelled):
    """A mean of pooled features a task, and how many rows it is of."""

    def learn(self, features: Features, task: str) -> None:
        """Moves the task's mean."""
        sums_P, count = features.pooled_ND.sum(axis=0), float(len(features.pooled_ND))
        if task in self._kept:
            sums_P, count = sums_P + self._kept[task][:-1] * self._kept[task][-1], count + self._kept[task][-1]
        self._kept[task] = np.append(sums_P / count, count)

    def route(self, features: Features) -> Sequence[str]:
        """By the smallest Euclidean distance."""
        names = list(self._kept)
        means_KP = np.stack([kept[:-1] for kept in self._kept.values()])
        # ||x - m||^2 less ||x||^2, which is the same for all.
        distances_NK = (means_KP**2).sum(axis=1) - 2 * features.pooled_ND @ means_KP.T
        return [names[place] for place in distances_NK.argmin(axis=1)]


def _learned(router: StreamingRidge | None) -> StreamingRidge:
    if router is None:
        raise ValueError("routing: expected a task learned before")
    return router
