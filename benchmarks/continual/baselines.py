"""The benchmark's own methods by kind, and which settings of them are which published baseline.

Beside these the service's learners run in the same harness: one adapter a domain, asked by name, is `LoraOptions`.
Knows no harness.
"""

from __future__ import annotations

from typing import Any

from benchmarks.continual.baseline_options import FullOptions, LowRankSequenceOptions, SparseSetaOptions
from benchmarks.continual.full import FullFineTuning
from benchmarks.continual.low_rank_sequence import LowRankSequence
from benchmarks.continual.one_model import OneModel
from benchmarks.continual.sparse_seta import SparseSeta
from learning.base_delta import RevisableModel
from learning.errors import LearningError
from learning.lora_options import LoraOptions
from learning.seta_options import SetaOptions
from learning.template import PromptTemplate
from learning.training_options import TrainingOptions

OPTIONS: dict[str, type[TrainingOptions]] = {
    "full": FullOptions,
    "low_rank_sequence": LowRankSequenceOptions,
    "sparse_seta": SparseSetaOptions,
}
"""Options by kind."""

BASELINES: dict[str, dict[str, Any]] = {
    "sequential full fine-tuning": {"kind": "full"},
    "sequential LoRA": {"kind": "low_rank_sequence"},
    "sequential LoRA, merged": {"kind": "low_rank_sequence", "after": "merge"},
    "O-LoRA": {"kind": "low_rank_sequence", "after": "orthogonal"},
    "replay 1 %": {"kind": "full", "rows": "replay", "replay_share": 0.01},
    "replay 10 %": {"kind": "full", "rows": "replay", "replay_share": 0.1},
    "EWC": {"kind": "full", "ewc": 1.0},
    "joint": {"kind": "full", "rows": "joint"},
    "SETA-style (reconstructed), sparse": {"kind": "sparse_seta"},
    "sparse, no anchor": {"kind": "sparse_seta", "anchor": 0.0},
    "sparse, whole shared part for all": {"kind": "sparse_seta", "masked": False},
    "sparse, all unique": {"kind": "sparse_seta", "split": "all_unique"},
    "sparse, all shared": {"kind": "sparse_seta", "split": "all_shared"},
    "sparse, random masks": {"kind": "sparse_seta", "random_masks": True},
}
"""What tells each from the others; rates and strengths are to be chosen on held-out rows of the stream at hand."""


def baseline(
    base: RevisableModel, template: PromptTemplate, options: TrainingOptions, seed: int, label: str
) -> OneModel:
    """The method that `options` are for, on a base that it may share with others."""
    match options:
        case FullOptions():
            return FullFineTuning(base, template, options, seed, label)
        case LowRankSequenceOptions():
            return LowRankSequence(base, template, options, seed, label)
        case SparseSetaOptions():
            return SparseSeta(base, template, options, seed, label)
        case _:
            raise LearningError(f"{label}: expected one of the kinds {sorted(OPTIONS)}, got {options.kind!r}")


def low_rank_ablations(options: SetaOptions) -> dict[str, TrainingOptions]:
    """What to compare a SETA-style low-rank learner with, one thing changed at a time, at the same scale of products.

    "all unique" is an adapter a domain of the unique rank alone, or of the whole rank; "all shared" one adapter carried
    on, with or without the same anchor. The controls are adapters a domain of the ranks next to what it stores on
    average of n domains, (shared + n unique) / n: of rank 4 + 4 that is 4.8 at five domains, 4.4 at ten.
    """
    shared = options.shared_rank
    unique = options.rank - shared
    common = {name: getattr(options, name) for name in TrainingOptions.model_fields if name != "kind"}
    common |= {"dropout": options.dropout, "b_rate": options.b_rate, "rank_stabilised": options.rank_stabilised}

    def of_rank(rank: int) -> dict[str, Any]:
        share = rank / options.rank
        return {**common, "rank": rank, "alpha": options.alpha * (share**0.5 if options.rank_stabilised else share)}

    lora = {rank: LoraOptions(**of_rank(rank)) for rank in (unique, unique + 1, options.rank)}
    carried = {**of_rank(options.rank), "fisher_examples": options.anchor_examples}
    return {
        "no anchor": options.model_copy(update={"anchor": 0.0}),
        "snapshot": options.model_copy(update={"mode": "snapshot"}),
        f"all unique, r{unique}": lora[unique],
        f"all unique, r{options.rank}": lora[options.rank],
        f"control, r{unique + 1}": lora[unique + 1],
        "all shared": LowRankSequenceOptions(**carried, ewc=options.anchor),
        "all shared, no anchor": LowRankSequenceOptions(**carried),
    }
