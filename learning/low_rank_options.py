"""What every learner is made with that trains low-rank adapters.

Each knob stands here once, with its unit and what follows from it; settings inherit it as it is. Knows no torch.
"""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from learning.options import Count, Device, Dtype, Options, disagreement


class LowRankOptions(Options):
    """How an adapter above the frozen layers is trained."""

    frozen_layers: Annotated[int, Field(ge=0)] = 2
    """Lowest decoder layers that get no adapter; the router's features must come from these. An adapter that goes on
    keeps the layers it stands in."""
    rank: Count = 16
    """Rank of the adapter, its capacity and size. One that goes on starts as the same function at a larger rank, as the
    nearest one at a smaller."""
    alpha: Annotated[float, Field(gt=0.0, allow_inf_nan=False)] = 32.0
    """Scale of the adapter: its output is multiplied by alpha / rank."""
    rank_stabilised: bool = False
    """Multiply by alpha / sqrt(rank) instead (rsLoRA), so that a large rank learns no slower than a small one; alpha
    has to be smaller then."""
    dropout: Annotated[float, Field(ge=0.0, lt=1.0)] = 0.0
    """Share of the adapter's inputs that is dropped while training."""
    targets: Annotated[tuple[str, ...], Field(min_length=1)] = (
        "q_proj",
        "k_proj",
        "v_proj",
        "o_proj",
        "gate_proj",
        "up_proj",
        "down_proj",
    )
    """Names of the linear modules that get an adapter; one that goes on keeps those it has."""
    learning_rate: Annotated[float, Field(gt=0.0, allow_inf_nan=False)] = 2e-4
    """Peak step size of AdamW."""
    b_rate: Annotated[float, Field(gt=0.0, allow_inf_nan=False)] = 1.0
    """Factor on the step size of the B matrices (LoRA+); 16 learns faster at the same cost, with a smaller
    learning_rate."""
    continue_rate: Annotated[float, Field(gt=0.0, allow_inf_nan=False)] = 0.5
    """Factor on the step size where an adapter in service goes on: lower keeps more of what it knows."""
    batch_size: Count = 16
    """Examples in one optimiser step, and the most in one evaluating forward."""
    micro_batch_tokens: Count | None = None
    """Tokens, padding included, in one forward and backward; a batch that holds more is taken in pieces, with the same
    outcome in less memory. None takes a batch at once. Halved, for the rest of a job, when memory runs out."""
    gradient_checkpointing: bool = False
    """Keep only what enters each decoder layer and compute the rest again for the backward pass: far less memory, a
    third more work."""
    logit_chunk: Count = 1024
    """Completion tokens whose logits exist at a time; each takes 12 bytes or more for every word of the vocabulary."""
    max_steps: Count = 1000
    """Optimiser steps after which training ends."""
    max_epochs: Annotated[float, Field(gt=0.0, allow_inf_nan=False)] = 10.0
    """Passes over the domain's examples after which training ends."""
    schedule: Literal["cosine", "constant", "linear"] = "cosine"
    """How the step size falls after the warm-up."""
    warmup_steps: Annotated[int, Field(ge=0)] = 0
    """Steps over which the step size rises from zero."""
    weight_decay: Annotated[float, Field(ge=0.0, allow_inf_nan=False)] = 0.0
    """Decoupled decay of the adapter's weights."""
    patience: Annotated[int, Field(ge=0)] | None = None
    """Evaluations in a row that may bring no gain; one more ends training early. When every held-out answer is exact,
    nothing is left to gain. None trains to the end; the best state is kept either way."""
    evaluate_every: Count = 50
    """Steps between evaluations on held-out examples."""
    evaluate_examples: Count = 256
    """Most held-out examples in an evaluation while training, evenly spaced; they choose the best state."""
    judge_examples: Count = 1024
    """Most held-out examples, evenly spaced, that judge incumbents, base and the finished adapter; each costs a forward
    for every one of these."""
    max_tokens: Annotated[int, Field(ge=2)] = 1024
    """Tokens of prompt and completion; a longer prompt loses its middle, an example whose completion alone is longer is
    not trained on."""
    dtype: Dtype = "float32"
    """Precision of the base weights while training and, under autocast, of the products; the adapter's weights are
    float32 always."""
    device: Device = "cpu"
    """Where training runs."""
    threads: Count | None = None
    """CPU threads of each worker; None leaves it to torch."""

    @model_validator(mode="after")
    def _fits_into_its_steps(self) -> Self:
        if self.patience is not None and self.evaluate_every >= self.max_steps:
            raise disagreement(
                "evaluate_every",
                f"expected less than max_steps ({self.max_steps}) because patience counts evaluations, "
                f"got {self.evaluate_every}",
            )
        if self.warmup_steps >= self.max_steps:
            raise disagreement(
                "warmup_steps", f"expected less than max_steps ({self.max_steps}), got {self.warmup_steps}"
            )
        return self
