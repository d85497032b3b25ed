"""Where traces of requests go; whoever reads settings from a file may inherit this as it is.

Needs pydantic only. Knows no settings file and no HTTP.
"""

from __future__ import annotations

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field


class TracingOptions(BaseModel):
    """Traces of requests by OpenTelemetry."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)

    endpoint: Annotated[str, Field(pattern=r"^https?://[^\s?#@]+$")] | None = None
    """Where a collector takes OTLP over HTTP, such as http://127.0.0.1:4318/v1/traces; None makes no traces. Headers,
    certificates and time-outs come from the environment, by OpenTelemetry's own names."""
    share: Annotated[float, Field(ge=0.0, le=1.0, allow_inf_nan=False)] = 1.0
    """Share (0 to 1) of the requests that are traced, of those whose client has not decided by a `traceparent`."""
