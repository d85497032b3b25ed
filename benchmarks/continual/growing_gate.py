"""A learned gate that grows: a linear softmax trained by back-propagation, with a row more for each task.

    g(z) = softmax(W z + b)      L = CE(new rows) / t + (1 - 1/t) strength R      at the t-th task

R holds what it routed before, on draws z from a Gaussian of each earlier task (mean of its own, one covariance); it is
SETA's routing-aware term (arXiv 2606.07500), whose form is not known, in our reconstruction, or another:

    none            0
    replay          CE of the draws, each of the task whose Gaussian it is from
    mass            KL(g_old(z), 0 || g_new(z)): the new expert has no mass where old tasks are, so that what moves to
                    it is penalised
    renormalised    KL(g_old(z) || g_new(z) renormalised over the old experts): blind to mass that moves to the new one

Features are the pooled ones, standardised by the first task's rows. Knows no method and no model.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
import torch
from pydantic import Field
from safetensors.numpy import load_file, save_file
from torch import Tensor
from torch.nn.functional import cross_entropy, log_softmax, softmax

from benchmarks.continual.router import Features
from learning.errors import LearningError
from learning.options import Count, Options, Seed
from learning.symmetric import Float64

_TENSORS, _FACTS = "gate.safetensors", "gate.json"
_FLOOR = 1e-6
"""Added to variances, in the unit of standardised features squared, so that they can be divided by and drawn from."""


class GrowingGateOptions(Options):
    """How the gate is trained, at each task."""

    hold: Literal["none", "replay", "mass", "renormalised"] = "mass"
    """What keeps it routing earlier tasks as before; see the module."""
    strength: Annotated[float, Field(ge=0.0, allow_inf_nan=False)] = 1.0
    """Weight of that term."""
    steps: Count = 300
    """Steps of Adam a task."""
    learning_rate: Annotated[float, Field(gt=0.0, allow_inf_nan=False)] = 1e-2
    """Adam's step size."""
    batch_size: Count = 64
    """Rows of the new task a step, and draws of each earlier one."""
    draws: Count = 256
    """Draws from each earlier task's Gaussian, made anew at each task."""
    seed: Seed = 0
    """Of draws and batches."""


class GrowingGate:
    """Routes to the expert with the most mass."""

    def __init__(self, options: GrowingGateOptions, label: str) -> None:
        self.label = label
        self._options = options
        self._tasks: list[str] = []
        self._tensors: dict[str, Float64] = {}
        """`centre` and `scale` [d], `weight` [k, d], `bias` [k]; with a term `means` [k, d], `scatter` [d, d]."""
        self._rows = 0

    def learn(self, features: Features, task: str) -> None:
        """Takes the next task's rows. Raises `LearningError` for one that it knows, or without rows."""
        if task in self._tasks or not len(features.pooled_ND):
            raise LearningError(f"{self.label}: expected rows of a new task, got {len(features.pooled_ND)} of {task}")
        pooled_ND = np.asarray(features.pooled_ND, dtype=np.float64)
        width = pooled_ND.shape[1]
        if not self._tasks:
            self._tensors = {
                "centre": pooled_ND.mean(0),
                "scale": np.sqrt(pooled_ND.var(0) + _FLOOR),
                "weight": np.zeros((0, width)),
                "bias": np.zeros(0),
            }
        z_ND = self._standardised(pooled_ND)
        chance = np.random.default_rng([self._options.seed, len(self._tasks)])
        old_weight = self._tensors["weight"], self._tensors["bias"]
        start = np.concatenate([old_weight[0], np.zeros((1, width))]), np.append(old_weight[1], 0.0)
        if self._tasks:  # the first gate has one expert, which has all mass whatever its weights are
            drawn_KMD = self._drawn(chance) if self._options.hold != "none" else None
            start = self._trained(start, old_weight, z_ND, drawn_KMD, chance)
        self._tensors |= {"weight": start[0], "bias": start[1]}
        self._tasks.append(task)
        if self._options.hold != "none":
            self._remember(z_ND)

    def route(self, features: Features) -> Sequence[str]:
        """Raises `LearningError` where no task is known."""
        if not self._tasks:
            raise LearningError(f"{self.label}: expected a task to be learned before it routes")
        scores_NK = self._standardised(features.pooled_ND) @ self._tensors["weight"].T + self._tensors["bias"]
        return [self._tasks[place] for place in scores_NK.argmax(1)]

    def stored_bytes(self) -> int:
        """Weights, means and the covariance; float64 as they are kept."""
        return sum(tensor.nbytes for tensor in self._tensors.values())

    def save(self, folder: Path) -> None:
        """Writes tensors and the names of tasks."""
        folder.mkdir(parents=True)
        save_file({name: np.ascontiguousarray(each) for name, each in self._tensors.items()}, folder / _TENSORS)
        (folder / _FACTS).write_text(json.dumps({"tasks": self._tasks, "rows": self._rows}) + "\n", encoding="utf-8")

    def load(self, folder: Path) -> None:
        """The inverse of `save`."""
        facts = json.loads((folder / _FACTS).read_text(encoding="utf-8"))
        self._tasks, self._rows = list(facts["tasks"]), int(facts["rows"])
        self._tensors = dict(load_file(folder / _TENSORS))

    def _standardised(self, pooled_ND: Float64) -> Float64:
        scaled_ND: Float64 = (pooled_ND - self._tensors["centre"]) / self._tensors["scale"]
        return scaled_ND

    def _remember(self, z_ND: Float64) -> None:
        mean_D = z_ND.mean(0)
        centred_ND = z_ND - mean_D
        width = len(mean_D)
        means = self._tensors.get("means", np.zeros((0, width)))
        scatter = self._tensors.get("scatter", np.zeros((width, width)))
        self._tensors |= {"means": np.vstack([means, mean_D]), "scatter": scatter + centred_ND.T @ centred_ND}
        self._rows += len(z_ND)

    def _drawn(self, chance: np.random.Generator) -> Float64:
        """float64[k, m, d]: draws from each task's Gaussian."""
        means_KD, width = self._tensors["means"], self._tensors["scatter"].shape[0]
        covariance = self._tensors["scatter"] / self._rows + _FLOOR * np.eye(width)
        factor = np.linalg.cholesky(covariance)
        noise = chance.standard_normal((len(means_KD), self._options.draws, width))
        drawn: Float64 = means_KD[:, None] + noise @ factor.T
        return drawn

    def _trained(
        self,
        start: tuple[Float64, Float64],
        old: tuple[Float64, Float64],
        z_ND: Float64,
        drawn_KMD: Float64 | None,
        chance: np.random.Generator,
    ) -> tuple[Float64, Float64]:
        """Weight and bias after the steps."""
        options = self._options
        weight, bias = (torch.from_numpy(each.copy()).requires_grad_(True) for each in start)
        old_weight, old_bias = (torch.from_numpy(each) for each in old)
        rows, new = torch.from_numpy(z_ND), len(old[1])
        adam = torch.optim.Adam([weight, bias], lr=options.learning_rate)
        for _ in range(options.steps):
            batch = rows[torch.from_numpy(chance.integers(len(rows), size=options.batch_size))]
            loss = cross_entropy(batch @ weight.T + bias, torch.full((len(batch),), new)) / (new + 1)
            if drawn_KMD is not None:
                picked = chance.integers(drawn_KMD.shape[1], size=options.batch_size)
                z = torch.from_numpy(drawn_KMD[:, picked].reshape(-1, drawn_KMD.shape[2]))
                owners = torch.arange(new).repeat_interleave(len(picked))
                old_gate = softmax(z @ old_weight.T + old_bias, 1)
                term = _term(options.hold, z @ weight.T + bias, old_gate, owners)
                loss = loss + options.strength * term * (new / (new + 1))
            adam.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            adam.step()
        return weight.detach().numpy(), bias.detach().numpy()


def _term(hold: str, logits_NK: Tensor, old_NJ: Tensor, owners_N: Tensor) -> Tensor:
    """float[]: R of the module, over draws; `old_NJ` is the old gate's mass, J = K - 1 experts."""
    if hold == "replay":
        return cross_entropy(logits_NK, owners_N)
    known = old_NJ.shape[1]
    new_NJ = log_softmax(logits_NK, 1)[:, :known] if hold == "mass" else log_softmax(logits_NK[:, :known], 1)
    return (torch.xlogy(old_NJ, old_NJ) - old_NJ * new_NJ).sum(1).mean()
