"""How the front door tells who asks, and what it bounds; whoever reads settings from a file may inherit this as it is.

Needs pydantic only. Knows no settings file and no HTTP.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, StringConstraints

Origin = Annotated[str, StringConstraints(pattern=r"^(\*|https?://[^\s/?#@*]+)$")]
Seconds = Annotated[float, Field(gt=0.0, allow_inf_nan=False)]


class AccessOptions(BaseModel):
    """Who is let in, and for how long."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)

    keys: Literal["auto", "required", "disabled"] = "auto"
    """auto: every request needs a key unless `host` is a loopback address. disabled: whoever reaches the front door may
    do everything, on any address; say so only where something in front of it asks who comes."""
    metrics: Literal["key", "open"] = "key"
    """Whether `/metrics` wants an `admin` key, where keys are required; open: whoever reaches it reads the names of all
    domains."""
    origins: tuple[Origin, ...] = ()
    """Origins, such as https://chat.example.org, whose pages may call the service (CORS); `*` for all. Empty: none."""
    body_seconds: Seconds = 60.0
    """Seconds in which a request's body has to come; what takes longer is answered 408."""
    request_seconds: Seconds | None = None
    """Seconds in which a request to generate or to route has to be answered to its last token; what takes longer is
    ended with 504, or an error event where the answer has begun. None: as long as it takes."""
