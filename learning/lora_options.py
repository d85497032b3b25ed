"""What a LoRA learner is made with. Knows no torch."""

from __future__ import annotations

from typing import ClassVar, Literal

from learning.low_rank_options import LowRankOptions


class LoraOptions(LowRankOptions):
    """How one low-rank adapter above the frozen layers is trained for each closed domain."""

    one_lane: ClassVar[bool] = False
    """Domains train in parallel: what one learns changes nothing for another."""

    kind: Literal["lora"] = "lora"
    """Method; lora trains a low-rank adapter above the frozen layers."""
