"""SETA-style (reconstructed), sparse: few weights of each matrix a domain, those that two domains chose being shared.

    M_t = the `density` of each matrix's weights with the largest F_t      F_t = E (dL_t / d theta)^2, at the base
    L = L_completion + anchor * sum_{p in S} need_p (theta_p - theta*_p)^2      need = sum_{i<t} F_i, each of mean 1

After "Sparse Subspace-to-Expert Sharing for Task-Agnostic Continual Learning" (SETA, arXiv 2606.07500), of which no
text beyond abstracts and summaries could be read; not to be cited as the paper's. Stated there: for each task a small
subset of the base's weights, by sensitivity to gradients; overlaps become shared experts, the rest unique ones of the
task; an adaptive elastic anchor of what is shared; a gate that grows and a term that holds it; no task id at inference.
Inferred here: F as the sensitivity, its density for each matrix, promotion (`sparse_experts`), the anchor's weights,
what a domain trains, and that it answers with those shared weights alone that it chose itself, without which little
was left of earlier domains in a trial. The gate stands apart, in `growing_gate`; asked by name there is none.

Every domain answers in weights of its own, of full rank: an engine that has one base can't serve them together, as it
can the low-rank form (`learning.seta`), and takes one domain's after another's.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from benchmarks.continual.baseline_options import SparseSetaOptions
from benchmarks.continual.one_model import OneModel, TrainedPart, trainable
from benchmarks.continual.sensitivity import anchored, fisher
from benchmarks.continual.sparse_experts import SparseExperts
from learning.base_delta import RevisableModel
from learning.completion_loss import EncodedExample
from learning.errors import LearningError
from learning.template import PromptTemplate


class SparseSeta(OneModel):
    """One expert of few weights a domain, answering in the base's weights."""

    def __init__(
        self, base: RevisableModel, template: PromptTemplate, options: SparseSetaOptions, seed: int, label: str
    ) -> None:
        super().__init__(base, template, options, seed, label)
        self._seta = options
        self._names = trainable(base.model, options)
        self._base_N = self._flat()
        if len(self._base_N) >= 2**31:
            raise LearningError(f"{label}: expected fewer than 2^31 weights, got {len(self._base_N)}")
        self.experts = SparseExperts(self._base_N, options.split, options.masked)
        self._mask_N = torch.zeros_like(self._base_N, dtype=torch.bool)

    @property
    def has_one_model(self) -> bool:
        return self._seta.split == "all_shared"

    @contextmanager
    def _opened(self, task: str, train: Sequence[EncodedExample]) -> Iterator[TrainedPart]:
        with self._standing(self._parts(self._base_N)) as model:
            trained = self._trained()
            for parameter in trained.values():
                parameter.requires_grad_(True)
            self._mask_N = self._chosen(train)
            used_N = self.experts.used_by(self._mask_N)
            start = self._parts(self.experts.start(used_N, self._seta.warm_start or self._seta.split != "all_unique"))
            with torch.no_grad():
                for name, parameter in trained.items():
                    parameter.copy_(start[name])
            rate = self._options.learning_rate
            group = {"params": list(trained.values()), "lr": rate, "peak": rate}
            held_N = self.experts.held_by(used_N)
            penalty = anchored(trained, self._parts(held_N), self._seta.anchor if bool(held_N.any()) else 0.0)
            masks = [mask.to(model.device) for mask in self._parts(used_N).values()]
            kept = InMask(list(trained.values()), masks)
            yield TrainedPart(model, [group], int(used_N.sum()), penalty, kept)

    def _keep(self, task: str, train: Sequence[EncodedExample]) -> None:
        trained_N = self._flat()
        need_N = torch.zeros_like(trained_N)
        if self._seta.split != "all_unique":
            used_N = self.experts.used_by(self._mask_N)
            found_N = torch.where(used_N, self._fisher(train), 0.0)
            need_N = found_N / (float(found_N.double().sum()) / int(used_N.sum()) or 1.0)
        self.experts.add(task, self._mask_N, trained_N, need_N)

    def _weights(self, task: str) -> Mapping[str, Tensor]:
        return self._parts(self.experts.weights_of(task)) if self.tasks else {}

    def _kept(self) -> dict[str, Tensor]:
        return self.experts.packed()

    def _take(self, kept: dict[str, Tensor]) -> None:
        self.experts.unpack(kept, self.tasks)

    def _chosen(self, train: Sequence[EncodedExample]) -> Tensor:
        """bool[n]: of each matrix the weights with the largest scores, one at least."""
        chance = torch.Generator().manual_seed(self._task_seed())
        size = len(self._base_N)
        scores_N = torch.rand(size, generator=chance) if self._seta.random_masks else self._fisher(train)
        chosen = []
        for part in self._parts(scores_N).values():
            count = max(1, round(self._seta.density * part.numel()))
            mask = torch.zeros(part.numel(), dtype=torch.bool)
            mask[torch.topk(part.flatten(), count).indices] = True
            chosen.append(mask)
        return torch.cat(chosen)

    def _fisher(self, train: Sequence[EncodedExample]) -> Tensor:
        found = fisher(self._loss, self._trained(), self._fisher_rows(train, self._seta.fisher_examples))
        return torch.cat([part.flatten().cpu() for part in found.values()])

    def _trained(self) -> dict[str, nn.Parameter]:
        parameters = dict(self._base.model.named_parameters())
        return {name: parameters[name] for name in self._names}

    def _flat(self) -> Tensor:
        """float32[n] on the CPU: the weights as the model has them."""
        return torch.cat([parameter.detach().flatten().cpu() for parameter in self._trained().values()])

    def _parts(self, flat_N: Tensor) -> dict[str, Tensor]:
        """The parts of a vector over all weights, by their names and shaped as they are."""
        trained = self._trained()
        parts = torch.split(flat_N, [parameter.numel() for parameter in trained.values()])
        return {name: part.view(trained[name].shape) for name, part in zip(trained, parts, strict=True)}


@dataclass
class InMask:
    """Holds a training to the weights inside masks; the others keep their values bit for bit."""

    parameters: Sequence[nn.Parameter]
    masks: Sequence[Tensor]

    def __post_init__(self) -> None:
        self._before = [parameter.detach().clone() for parameter in self.parameters]

    def before_step(self) -> None:
        for parameter, mask in zip(self.parameters, self.masks, strict=True):
            if parameter.grad is not None:
                parameter.grad.mul_(mask)

    @torch.no_grad()
    def after_step(self) -> None:
        for parameter, mask, before in zip(self.parameters, self.masks, self._before, strict=True):
            parameter.copy_(torch.where(mask, parameter, before))
