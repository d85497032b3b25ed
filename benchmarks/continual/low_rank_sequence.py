"""Low-rank adapters that answer all together, domain after domain: carried on, merged, or orthogonal.

    W_t = W + s sum_i B_i A_i         i over the adapters there are: one if carried on, one a domain otherwise

O-LoRA (arXiv 2310.14152) holds the earlier ones and trains the new one under

    L = L_completion + lambda_1 sum_modules sum_{i<t} |A_i A_t^T|_1

so that it reads directions that the others don't; its second term, a decay of the new adapter, is 0 in most of its
authors' runs and left out. Earlier adapters stand in the weights while the new one trains, which is the same function.
They are deployed as one adapter under every task's name, the factors of several side by side, and as a change of the
base where they have become part of it or their ranks come to more than `LARGEST_RANK`. Does not know which rows are
kept.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from torch import Tensor, nn

from benchmarks.continual.baseline_options import LowRankSequenceOptions
from benchmarks.continual.full import OfRows
from benchmarks.continual.method import Deployment
from benchmarks.continual.one_model import TrainedPart, trainable
from benchmarks.continual.sensitivity import added, anchored, fisher, of_mean_one
from learning.adapted import carrying, save_adapter, set_tensors, tensors_of
from learning.adapter_shape import AdapterShape, StoredAdapter
from learning.base_delta import RevisableModel
from learning.completion_loss import EncodedExample
from learning.optimiser import rate_groups
from learning.template import PromptTemplate
from learning.training import Penalty

_A, _B = ".lora_A.weight", ".lora_B.weight"
_PEFT = "base_model.model."
_NEED = "need/"
_MERGED = "merged/"
LARGEST_RANK = 64
"""Of an adapter that is deployed: an engine keeps room for it in every module and every slot."""

Adapter = dict[str, Tensor]
"""By PEFT's names, float32[r, in] and float32[out, r]."""


class LowRankSequence(OfRows):
    """Trains a PEFT adapter at a time and answers with their sum, put into the weights."""

    def __init__(
        self, base: RevisableModel, template: PromptTemplate, options: LowRankSequenceOptions, seed: int, label: str
    ) -> None:
        super().__init__(base, template, options, seed, label)
        names = trainable(base.model, options)
        layers = {int(part) for name in names for part in name.split(".") if part.isdigit()}
        targets = frozenset(name.split(".")[-2] for name in names)
        self._low_rank = options
        self._shape = AdapterShape(options.rank, options.alpha, options.rank_stabilised, targets, frozenset(layers))
        self._adapters: list[Adapter] = []
        """One if carried on; one a domain if orthogonal; none if merged."""
        self._merged: dict[str, Tensor] = {}
        """Changes of the base's weights, where adapters become part of them."""
        self._need: dict[str, Tensor] = {}
        self._model: PeftModel | None = None

    @contextmanager
    def _opened(self, task: str, train: Sequence[EncodedExample]) -> Iterator[TrainedPart]:
        carries = self._low_rank.after == "carry"
        with self._standing({} if carries else self._weights(task)) as base:
            model: PeftModel = get_peft_model(base, LoraConfig(**self._shape.config(self._low_rank.dropout)))
            self._model = model
            goes_on = carries and not self._joint and bool(self._adapters)
            try:
                if goes_on:
                    set_tensors(model, self._adapters[0])
                trained = _trained(model)
                rate = self._low_rank.learning_rate * (self._low_rank.continue_rate if goes_on else 1.0)
                named = [(name, each) for name, each in model.named_parameters() if each.requires_grad]
                groups = rate_groups(named, rate, self._low_rank.b_rate)
                yield TrainedPart(model, groups, sum(each.numel() for each in trained.values()), self._penalty(trained))
            finally:
                self._model = None
                model.unload()
                if hasattr(base, "peft_config"):
                    del base.peft_config

    def _penalty(self, trained: Mapping[str, nn.Parameter]) -> Penalty | None:
        if self._low_rank.after == "orthogonal" and self._adapters and self._low_rank.orthogonality:
            return lambda: self._low_rank.orthogonality * overlap(self._adapters, trained)
        return anchored(trained, self._need, self._low_rank.ewc)

    def _keep(self, task: str, train: Sequence[EncodedExample]) -> None:
        model = self._model
        if model is None:
            raise RuntimeError("expected an adapter in training")
        adapter = {name: tensor.detach().cpu().clone() for name, tensor in sorted(tensors_of(model).items())}
        if self._low_rank.after == "merge":
            self._merged = self._with(self._merged, adapter)
        elif self._low_rank.after == "carry":
            self._adapters = [adapter]
        else:
            self._adapters = [*self._adapters, adapter]
        if self._low_rank.ewc:
            mine = fisher(self._loss, _trained(model), self._fisher_rows(train, self._low_rank.fisher_examples))
            self._need = added(self._need, of_mean_one(mine))

    @torch.no_grad()
    def _weights(self, task: str) -> Mapping[str, Tensor]:
        deltas = self._merged
        for adapter in self._adapters:
            deltas = self._with(deltas, adapter)
        there = dict(self._base.model.named_parameters())
        return {name: there[name].cpu() + delta for name, delta in deltas.items()}

    def _with(self, deltas: Mapping[str, Tensor], adapter: Adapter) -> dict[str, Tensor]:
        """The changes of the base's weights with an adapter's product added."""
        found = dict(deltas)
        for name in adapter:
            if name.endswith(_A):
                module = name.removesuffix(_A)
                weight = module.removeprefix(_PEFT) + ".weight"
                product = self._shape.scale * (adapter[module + _B] @ adapter[name])
                found[weight] = found[weight] + product if weight in found else product
        return found

    def _deployed(self, tasks: tuple[str, ...], folder: Path) -> Deployment:
        rank = len(self._adapters) * self._shape.rank
        if self._merged or not 0 < rank <= LARGEST_RANK:
            return super()._deployed(tasks, folder)
        with torch.random.fork_rng(), carrying(self._base.model, self._summed(rank), self._seed) as model:
            save_adapter(model, folder)
        return Deployment(tasks, dict.fromkeys(tasks, folder))

    def _summed(self, rank: int) -> StoredAdapter:
        """The adapters side by side: [B_1 B_2] [A_1; A_2] is their sum."""
        joined = {
            name: torch.cat([each[name] for each in self._adapters], dim=0 if name.endswith(_A) else 1)
            for name in self._adapters[0]
        }
        ranks = rank**0.5 if self._shape.rank_stabilised else rank
        return StoredAdapter(replace(self._shape, rank=rank, alpha=self._shape.scale * ranks), joined)

    def _kept(self) -> dict[str, Tensor]:
        adapters = {f"{place}/{name}": part for place, each in enumerate(self._adapters) for name, part in each.items()}
        needed = {_NEED + name: part for name, part in self._need.items()}
        return {**adapters, **needed, **{_MERGED + name: part for name, part in self._merged.items()}}

    def _take(self, kept: dict[str, Tensor]) -> None:
        self._need = {n.removeprefix(_NEED): each for n, each in kept.items() if n.startswith(_NEED)}
        self._merged = {n.removeprefix(_MERGED): each for n, each in kept.items() if n.startswith(_MERGED)}
        found: dict[int, Adapter] = {}
        for name, part in sorted(kept.items()):
            place, _, inner = name.partition("/")
            if place.isdigit():
                found.setdefault(int(place), {})[inner] = part
        self._adapters = [found[place] for place in sorted(found)]


def overlap(earlier: Sequence[Adapter], trained: Mapping[str, Tensor]) -> Tensor:
    """float32[]: sum over modules and earlier adapters of the absolute products of their A's rows with the new A's."""
    terms = []
    for name, new_RI in trained.items():
        if name.endswith(_A):
            old_QI = torch.cat([each[name] for each in earlier]).to(new_RI.device)
            terms.append((old_QI @ new_RI.T).abs().sum())
    return torch.stack(terms).sum()


def _trained(model: PeftModel) -> dict[str, nn.Parameter]:
    """What is trained, by the names that PEFT stores it under."""
    named = {name.replace(".default", ""): each for name, each in model.named_parameters() if each.requires_grad}
    return {name: named[name] for name in sorted(named)}
