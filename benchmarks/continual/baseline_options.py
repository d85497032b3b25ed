"""What the benchmark's own methods are made with, beside what every training is. Knows no torch.

One options model for each kind; which published baseline a setting is, `benchmarks.continual.baselines` says.
"""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from learning.low_rank_options import LowRankOptions
from learning.options import Count, disagreement
from learning.training_options import TrainingOptions


class RowOptions(TrainingOptions):
    """Which rows one model is trained on, domain after domain, and how it is held to what it was."""

    rows: Literal["own", "replay", "joint"] = "own"
    """own: each domain's rows alone. replay: with some rows of every domain before. joint: with all of them, from the
    base and for as many more steps as there are domains; no continual method, the bound of what one model can do."""
    replay_share: Annotated[float, Field(gt=0.0, le=1.0)] = 0.01
    """Share of each domain's rows that replay keeps, one at least."""
    train_from: Count = 1
    """The domain from which on the joint model is trained, counted from 1; before it the base answers. With n domains
    to come, n spares all but the last of trainings that each take longer than the one before."""
    ewc: Annotated[float, Field(ge=0.0, allow_inf_nan=False)] = 0.0
    """Strength by which each weight is held where earlier domains need it (EWC); 0 lets all go."""
    fisher_examples: Count = 256
    """Training examples by which is measured what a domain needs; each costs a forward and a backward pass."""

    @model_validator(mode="after")
    def _holds_what_goes_on(self) -> Self:
        if self.ewc and self.rows == "joint":
            raise disagreement("ewc", f"expected 0 where all rows are there again, got {self.ewc}")
        return self


class FullOptions(RowOptions):
    """How the base's weights themselves are trained, domain after domain."""

    kind: Literal["full"] = "full"
    """Method; full trains the linear modules above the frozen layers, or all there is."""
    all_parameters: bool = False
    """Train every parameter, embeddings and norms too, whatever `targets` and `frozen_layers` say; features from lower
    layers don't stay what they were."""


class LowRankSequenceOptions(RowOptions, LowRankOptions):
    """How low-rank adapters are trained that make one model of all domains."""

    kind: Literal["low_rank_sequence"] = "low_rank_sequence"
    """Method; low_rank_sequence trains adapters that answer all together."""
    after: Literal["carry", "merge", "orthogonal"] = "carry"
    """carry: one adapter, trained on by each domain. merge: each domain's becomes part of the weights. orthogonal: each
    domain's stays beside those before it, and is trained to read other directions than they do (O-LoRA)."""
    orthogonality: Annotated[float, Field(ge=0.0, allow_inf_nan=False)] = 0.5
    """Weight of O-LoRA's term, `lambda_1` there; its authors take 0.5 for most of their streams."""
    continue_rate: Annotated[float, Field(gt=0.0, allow_inf_nan=False)] = 1.0
    """Factor on the step size of every domain after the first where one adapter is carried on."""

    @model_validator(mode="after")
    def _has_something_to_hold(self) -> Self:
        if self.ewc and self.after != "carry":
            raise disagreement("ewc", f"expected 0 where each domain has a new adapter, got {self.ewc}")
        if self.rows == "joint" and self.after != "carry":
            raise disagreement("after", f"expected carry where rows are joint, got {self.after}")
        return self


class SparseSetaOptions(TrainingOptions):
    """How sparse experts, of which some are shared, are trained domain after domain."""

    kind: Literal["sparse_seta"] = "sparse_seta"
    """Method; sparse_seta trains few weights of each matrix, those that two domains chose being shared."""
    density: Annotated[float, Field(gt=0.0, le=1.0)] = 0.1
    """Share of each matrix's weights that a domain chooses."""
    split: Literal["on_share", "all_unique", "all_shared"] = "on_share"
    """on_share: what two domains chose is shared. all_unique: every domain has values of its own, also where others
    chose the same weights. all_shared: what any domain chose is shared, and everyone answers with it."""
    masked: bool = True
    """Whether a domain answers with those shared weights only that it chose itself; otherwise with all of them."""
    anchor: Annotated[float, Field(ge=0.0, allow_inf_nan=False)] = 1.0
    """Strength by which shared weights are held where earlier domains need them; 0 lets them go."""
    random_masks: bool = False
    """Choose weights by chance instead of by sensitivity."""
    warm_start: bool = True
    """With all_unique: begin where the last domain that chose a weight left it, as shared weights do."""
    fisher_examples: Count = 256
    """Training examples by which weights are chosen and, after the training, is measured what the domain needs; each
    costs two forward and backward passes."""
