"""A linear softmax gate over pooled features, trained by back-propagation: what an analytic router is compared with.

    p(k | x) = softmax(W x + b)_k,    L = -log p(task | x),  by AdamW

`linear` sees one task at a time: a column is added for it, and its rows alone train the whole gate, so that earlier
columns are pushed down, as multi-adapter methods without replay have it. `linear_joint` keeps all rows and trains anew.
Knows no method.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.nn.functional import cross_entropy

from benchmarks.continual.router import Features

_GATE, _TASKS = "gate.safetensors", "tasks.json"


def linear(label: str, settings: Mapping[str, Any], seed: int) -> LinearGate:
    """Trained on each task as it comes."""
    return LinearGate(label, seed, joint=False, **settings)


def linear_joint(label: str, settings: Mapping[str, Any], seed: int) -> LinearGate:
    """Trained on all tasks so far."""
    return LinearGate(label, seed, joint=True, **settings)


class LinearGate:
    """Weights and biases, float32; with `joint` all rows seen as well."""

    def __init__(
        self, label: str, seed: int, *, joint: bool, rate: float = 1e-3, epochs: int = 20, batch_size: int = 32
    ) -> None:
        self.label = label
        self._joint, self._seed = joint, seed
        self._rate, self._epochs, self._batch = rate, epochs, batch_size
        self._tasks: list[str] = []
        self._weight_KP = torch.zeros(0, 0)
        self._bias_K = torch.zeros(0)
        self._rows_NP: Tensor | None = None
        self._labels_N = torch.zeros(0, dtype=torch.long)

    def learn(self, features: Features, task: str) -> None:
        """Trains on the rows, or on all rows so far."""
        rows_NP = torch.from_numpy(features.pooled_ND).float()
        if task not in self._tasks:
            self._tasks.append(task)
            self._weight_KP = torch.cat(
                [self._weight_KP.reshape(-1, rows_NP.shape[1]), torch.zeros(1, rows_NP.shape[1])]
            )
            self._bias_K = torch.cat([self._bias_K, torch.zeros(1)])
        labels_N = torch.full((len(rows_NP),), self._tasks.index(task))
        if self._joint:
            rows_NP = rows_NP if self._rows_NP is None else torch.cat([self._rows_NP, rows_NP])
            labels_N = torch.cat([self._labels_N, labels_N])
            self._rows_NP, self._labels_N = rows_NP, labels_N
            self._weight_KP, self._bias_K = torch.zeros_like(self._weight_KP), torch.zeros_like(self._bias_K)
        self._train(rows_NP, labels_N)

    @torch.inference_mode()
    def route(self, features: Features) -> Sequence[str]:
        """By the highest score."""
        scores_NK = torch.from_numpy(features.pooled_ND).float() @ self._weight_KP.T + self._bias_K
        return [self._tasks[int(place)] for place in scores_NK.argmax(dim=1)]

    def stored_bytes(self) -> int:
        """Of the gate, and of kept rows with their labels."""
        rows = self._rows_NP.nbytes + self._labels_N.nbytes if self._rows_NP is not None else 0
        return self._weight_KP.nbytes + self._bias_K.nbytes + rows

    def save(self, folder: Path) -> None:
        """Gate, kept rows and tasks."""
        folder.mkdir(parents=True)
        tensors = {"weight": self._weight_KP, "bias": self._bias_K, "labels": self._labels_N}
        if self._rows_NP is not None:
            tensors["rows"] = self._rows_NP
        save_file(tensors, folder / _GATE)
        (folder / _TASKS).write_text(json.dumps(self._tasks) + "\n", encoding="utf-8")

    def load(self, folder: Path) -> None:
        """The inverse."""
        tensors = load_file(folder / _GATE)
        self._weight_KP, self._bias_K, self._labels_N = tensors["weight"], tensors["bias"], tensors["labels"]
        self._rows_NP = tensors.get("rows")
        self._tasks = json.loads((folder / _TASKS).read_text(encoding="utf-8"))

    def _train(self, rows_NP: Tensor, labels_N: Tensor) -> None:
        weight_KP, bias_K = self._weight_KP.clone().requires_grad_(), self._bias_K.clone().requires_grad_()
        optimiser = torch.optim.AdamW([weight_KP, bias_K], lr=self._rate, weight_decay=0.0)
        # Another order of rows for every task, the same in every run.
        generator = torch.Generator().manual_seed(self._seed * 1_000_003 + len(self._tasks))
        for _ in range(self._epochs):
            for chosen in torch.split(torch.randperm(len(rows_NP), generator=generator), self._batch):
                optimiser.zero_grad()
                cross_entropy(rows_NP[chosen] @ weight_KP.T + bias_K, labels_N[chosen]).backward()  # type: ignore[no-untyped-call]
                optimiser.step()
        self._weight_KP, self._bias_K = weight_KP.detach(), bias_K.detach()
