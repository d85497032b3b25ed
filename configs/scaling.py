"""How many there are of something: a number, or a range within which load decides, written `1-4`."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Annotated, Any

from pydantic import PlainSerializer, PlainValidator, WithJsonSchema

_WRITTEN = re.compile(r"(\d{1,6})-(\d{1,6})")


@dataclass(frozen=True)
class Scaling:
    """At least `fewest` and at most `most`."""

    fewest: int
    most: int

    @property
    def is_fixed(self) -> bool:
        """Tell whether load decides nothing."""
        return self.fewest == self.most

    def written(self) -> int | str:
        """Return it as it stands in a configuration."""
        return self.most if self.is_fixed else f"{self.fewest}-{self.most}"


def _reads(least: int) -> Any:
    def read(value: object) -> Scaling:
        if isinstance(value, Scaling):
            return value
        scale = None
        if isinstance(value, int) and not isinstance(value, bool):
            scale = Scaling(value, value)
        elif isinstance(value, str) and (match := _WRITTEN.fullmatch(value.strip())):
            scale = Scaling(int(match[1]), int(match[2]))
        if scale is None or not least <= scale.fewest <= scale.most or scale.most < 1:
            raise ValueError(f"expected a number from 1 on, or a range such as {least}-4, got {value!r}")
        return scale

    return read


def _annotated(least: int) -> Any:
    return (
        PlainValidator(_reads(least)),
        PlainSerializer(Scaling.written),
        WithJsonSchema({"anyOf": [{"type": "integer", "minimum": 1}, {"type": "string", "pattern": r"^\d+-\d+$"}]}),
    )


Scaled = Annotated[Scaling, *_annotated(1)]
"""At least one."""
ScaledToZero = Annotated[Scaling, *_annotated(0)]
"""None, where nothing is to do."""
