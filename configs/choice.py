"""A section of several makes, told apart by its key `kind`.

The loader meets one plain section: its keys stay flat, and only those of its own kind are known. What this module does
not know: which kinds there are.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from pydantic import BaseModel, GetCoreSchemaHandler
from pydantic.fields import FieldInfo
from pydantic_core import CoreSchema, core_schema

KIND = "kind"


@dataclass(frozen=True)
class ByKind:
    """Annotates a field whose model is the one of `sections` that its `kind` names; left out, it is the default.

    pydantic's own discriminator wants two models at least; this one serves from the first.
    """

    sections: Mapping[str, type[BaseModel]]
    default: str

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        """A union of the sections' schemas, tagged by kind."""
        choices = {kind: handler.generate_schema(section) for kind, section in self.sections.items()}
        return core_schema.tagged_union_schema(choices, discriminator=self.kind_of)

    def kind_of(self, value: object) -> str:
        """The kind of a section, written or built; the default for what is no section, which its model then refuses."""
        if isinstance(value, Mapping):
            return str(value.get(KIND, self.default))
        return str(getattr(value, KIND, self.default))


def sections_of(field: FieldInfo) -> dict[str, type[BaseModel]]:
    """The models that a field's section may be: by kind where kinds tell them apart, else one, under an empty kind."""
    choice = next((mark for mark in field.metadata if isinstance(mark, ByKind)), None)
    if choice is not None:
        return dict(choice.sections)
    if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
        return {"": field.annotation}
    return {}
