"""What the router is made with. None of it is in the sums: another choice makes the router that these would have made
from the first row on. Knows no torch and no numpy.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from learning.options import Options

Head = Literal["ridge", "inverse_frequency", "lda"]
AbstentionKind = Literal["top", "leverage", "both", "mahalanobis"]


class RouterOptions(Options):
    """How scores are made of the sums, and when a prompt is left to the base model."""

    ridge: Annotated[float, Field(gt=0.0, allow_inf_nan=False)] = 100.0
    """Regularisation lambda added to the Gram's diagonal; larger trusts few examples less."""
    head: Head = "ridge"
    """ridge: least squares on the domains' labels. inverse_frequency: the same with every domain weighing alike, at the
    cost of reading all rows at a publication. lda: discriminants with a covariance that all domains share."""
    abstention: AbstentionKind = "top"
    """By what a prompt is told to belong to no domain: its top score; its leverage, which takes d^2 numbers more in
    each replica; both together; or its relative Mahalanobis distance."""
    background: bool = True
    """Whether general texts that come with this package count as a class of their own, which the base model answers
    for. Without it a router of few domains finds one of them in almost anything."""
    keep: Annotated[float, Field(gt=0.0, le=1.0)] = 0.95
    """Share of the domains' own prompts that the threshold keeps, by their held-out examples; the rest, and what looks
    like none of them, goes to the base model. 1 leaves it only what the background takes."""
    calibration_rows: Annotated[int, Field(ge=0)] = 64
    """Held-out examples of each domain whose features are kept to set the threshold by, 4 d bytes each; 0 keeps none,
    and there is no threshold."""
