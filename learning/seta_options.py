"""What a SETA-style learner is made with. Knows no torch."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal, Self

from pydantic import Field, model_validator

from learning.low_rank_options import LowRankOptions
from learning.options import Count, disagreement


class SetaOptions(LowRankOptions):
    """How an adapter with a part shared by all domains is trained for each closed domain."""

    one_lane: ClassVar[bool] = True
    """Each training goes on from the shared part that the one before it left."""

    kind: Literal["seta"] = "seta"
    """Method; seta trains adapters of which one part is shared by all domains, and anchored."""
    shared_rank: Count = 8
    """Of `rank`, the part that all domains share; the rest is the domain's own. Kept from the first training on, until
    the state is dropped."""
    mode: Literal["live", "snapshot"] = "live"
    """live: what a training changes of the shared part comes into service in every domain, after their exams. snapshot:
    a domain keeps the shared part that it was trained with."""
    anchor: Annotated[float, Field(ge=0.0, allow_inf_nan=False)] = 1.0
    """Strength by which the shared part is held where earlier domains need it; 0 lets it go."""
    anchor_examples: Count = 256
    """Training examples by which is measured what a domain needs of the shared part; each costs a forward and a
    backward pass of its own."""

    @model_validator(mode="after")
    def _leaves_a_part_of_its_own(self) -> Self:
        if self.shared_rank >= self.rank:
            raise disagreement(
                "shared_rank", f"expected less than rank ({self.rank}), got {self.shared_rank}; a domain needs its own"
            )
        return self
