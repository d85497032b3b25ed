"""What is kept of routed requests for a person to look at; whoever reads settings from a file may inherit it.

Needs pydantic only. Knows no settings file and no HTTP.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field


class DecisionOptions(BaseModel):
    """Which decisions are kept in the registry, and what of their prompts."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)

    keep: Annotated[int, Field(ge=0, le=1_000_000)] = 0
    """About how many decisions are kept, of all replicas together; older ones are removed. 0 keeps none."""
    share: Annotated[float, Field(gt=0.0, le=1.0, allow_inf_nan=False)] = 1.0
    """Share (0 to 1) of the requests whose decisions are kept, drawn at random."""
    prompts: Literal["none", "masked", "whole"] = "masked"
    """What is kept of the texts that were decided on, up to 2,000 characters: nothing; all but addresses, links and
    digits, which are crossed out; or all."""
