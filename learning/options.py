"""What the options of a method have in common, and how two of them are said to contradict each other.

Needs pydantic only, so that settings can be read and checked where nothing is computed. Knows no method and no file.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, StringConstraints
from pydantic_core import PydanticCustomError

Count = Annotated[int, Field(ge=1, le=2**31 - 1)]
"""A number of things; beyond this the machinery below counts otherwise, or not at all."""
Seed = Annotated[int, Field(ge=0, le=2**63 - 1)]
"""A seed that every generator takes."""
Device = Annotated[str, StringConstraints(pattern=r"^(cpu|cuda)(:\d+)?$")]
Dtype = Literal["float32", "bfloat16", "float16"]


class Options(BaseModel):
    """Frozen, closed to unknown keys, documented from the docstrings. Raises pydantic's ValidationError."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True, protected_namespaces=())


def disagreement(path: str, message: str) -> PydanticCustomError:
    """Two fields that contradict each other, reported at the dotted key `path` below the model that found it."""
    # The message travels as a value, so that braces in it are not taken for a template.
    return PydanticCustomError("disagreement", "{message}", {"path": path, "message": message})
