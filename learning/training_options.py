"""What every learner is made with that trains by steps of an optimiser.

Each knob stands here once, with its unit and what follows from it; settings inherit it as it is. Knows no torch.
"""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal, Self

from pydantic import Field, model_validator

from learning.options import Count, Device, Dtype, Options, disagreement


class TrainingOptions(Options):
    """How a training runs; each method's own options give `kind` and `one_lane`."""

    one_lane: ClassVar[bool] = False
    """Whether domains are trained one after another, as each training goes on from what the one before it left."""

    kind: str
    """Method."""

    frozen_layers: Annotated[int, Field(ge=0)] = 2
    """Lowest decoder layers that stay as they are; the router's features must come from these."""
    targets: Annotated[tuple[str, ...], Field(min_length=1)] = (
        "q_proj",
        "k_proj",
        "v_proj",
        "o_proj",
        "gate_proj",
        "up_proj",
        "down_proj",
    )
    """Names of the linear modules that are trained, above the frozen layers."""
    learning_rate: Annotated[float, Field(gt=0.0, allow_inf_nan=False)] = 2e-4
    """Peak step size of AdamW."""
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
    """Decoupled decay of what is trained."""
    patience: Annotated[int, Field(ge=0)] | None = None
    """Evaluations in a row that may bring no gain; one more ends training early. When every held-out answer is exact,
    nothing is left to gain. None trains to the end; the best state is kept either way."""
    evaluate_every: Count = 50
    """Steps between evaluations on held-out examples."""
    evaluate_examples: Count = 256
    """Most held-out examples in an evaluation while training, evenly spaced; they choose the best state."""
    judge_examples: Count = 1024
    """Most held-out examples, evenly spaced, that judge incumbents, base and the outcome; each costs a forward
    for every one of these."""
    max_tokens: Annotated[int, Field(ge=2)] = 1024
    """Tokens of prompt and completion. Prompts that leave no room for the longest completion lose their middle (a
    version's `shortened` counts them); an example whose completion alone is longer is not trained on."""
    dtype: Dtype = "float32"
    """Precision of the base weights while training and, under autocast, of the products; what is
    trained is float32 always."""
    device: Device = "cpu"
    """Where training runs."""
    threads: Count | None = None
    """CPU threads of each worker; None leaves it to torch."""
    checkpoint_seconds: Annotated[float, Field(ge=0.0, allow_inf_nan=False)] = 30.0
    """How long a training goes on without keeping what another worker needs to go on with it; 0 keeps nothing. Where
    keeping takes long it is done less often: no more than a tenth of the time goes into it."""

    def weights_trained(self, inputs: int, outputs: int) -> int:
        """How many weights are trained for a linear module of that shape."""
        return inputs * outputs

    def bytes_beside(self, inputs: int, outputs: int) -> int:
        """How much is held for a linear module of that shape while training, beside its weight and what is trained."""
        return 0

    @property
    def adapter_rank(self) -> int:
        """Rank of the adapters that it makes; 0 where it makes none."""
        return 0

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
