"""What every learner is made with that trains low-rank adapters. Knows no torch."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from learning.options import Count
from learning.training_options import TrainingOptions


class LowRankOptions(TrainingOptions):
    """How an adapter above the frozen layers is trained."""

    rank: Count = 16
    """Rank of the adapter, its capacity and size. One that goes on starts as the same function at a larger rank, as the
    nearest one at a smaller, and keeps the layers and modules it stands in."""
    alpha: Annotated[float, Field(gt=0.0, allow_inf_nan=False)] = 32.0
    """Scale of the adapter: its output is multiplied by alpha / rank."""
    rank_stabilised: bool = False
    """Multiply by alpha / sqrt(rank) instead (rsLoRA), so that a large rank learns no slower than a small one; alpha
    has to be smaller then."""
    dropout: Annotated[float, Field(ge=0.0, lt=1.0)] = 0.0
    """Share of the adapter's inputs that is dropped while training."""
    b_rate: Annotated[float, Field(gt=0.0, allow_inf_nan=False)] = 1.0
    """Factor on the step size of the B matrices (LoRA+); 16 learns faster at the same cost, with a smaller
    learning_rate."""
    continue_rate: Annotated[float, Field(gt=0.0, allow_inf_nan=False)] = 0.5
    """Factor on the step size where an adapter in service goes on: lower keeps more of what it knows."""

    def weights_trained(self, inputs: int, outputs: int) -> int:
        return self.rank * (inputs + outputs)

    @property
    def adapter_rank(self) -> int:
        return self.rank
