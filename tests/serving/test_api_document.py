"""The document's tables of answers say what the models say."""

from pathlib import Path
from types import ModuleType

import pytest
from pydantic import BaseModel

from registry.keys import Grant
from serving import api, key_bodies, past_bodies

BEGIN, END = "<!-- from serving/{}.py -->\n", "<!-- end -->\n"


def tables(module: ModuleType) -> str:
    """A table for each body of ours, in the order of the file."""
    bodies = [body for body in vars(module).values() if isinstance(body, type) and issubclass(body, api.Body)]
    bodies = [body for body in bodies if body.__module__ == module.__name__]
    asked = [Grant] if module is key_bodies else []
    return "\n".join(table(body) for body in [*asked, *bodies] if body is not api.Body)


def table(body: type[BaseModel]) -> str:
    lines = [f"**`{body.__name__}`**: {words(body.__doc__)}\n", "| field | |", "|---|---|"]
    lines += [f"| `{name}` | {words(field.description)} |" for name, field in body.model_fields.items()]
    return "\n".join(lines) + "\n"


def words(text: str | None) -> str:
    return " ".join((text or "").split())


@pytest.mark.parametrize("module", [api, past_bodies, key_bodies], ids=["api", "past_bodies", "key_bodies"])
def test_every_field_of_every_body_stands_in_the_document(repository: Path, module: ModuleType) -> None:
    document = (repository / "docs" / "api.md").read_text(encoding="utf-8")
    begin = BEGIN.format(module.__name__.removeprefix("serving."))
    assert begin in document and END in document
    told = document.split(begin)[1].split(END)[0].strip()
    expected = tables(module).strip()
    assert told == expected, f"put this between the markers of docs/api.md:\n\n{expected}"


@pytest.mark.parametrize("body", [api.RouteDecision, api.SystemStatus, api.ErrorDetail])
def test_a_table_has_a_line_for_each_field(body: type[BaseModel]) -> None:
    assert table(body).count("\n| `") == len(body.model_fields)
