"""What the page is built from agrees with what it is built of: its types, and the files that are committed."""

from __future__ import annotations

import re
from pathlib import Path

from serving import api, past_bodies
from serving.page import FOLDER

FIELD = re.compile(r"^  (\w+)\??:", re.MULTILINE)
BODY = re.compile(r"^export interface (\w+) \{\n(.*?)^\}", re.MULTILINE | re.DOTALL)


def test_its_types_are_the_bodies_of_the_front_door(repository: Path) -> None:
    """Remake them with `npm run types` in page/."""
    text = (repository / "page" / "src" / "bodies.ts").read_text()
    told = {name: set(FIELD.findall(fields)) for name, fields in BODY.findall(text)}
    bodies = {
        name: set(value.model_fields)
        for name, value in {**vars(api), **vars(past_bodies)}.items()
        if isinstance(value, type) and issubclass(value, api.Body) and value is not api.Body
    }
    assert bodies and all(told.get(name) == fields for name, fields in bodies.items())


def test_every_file_of_the_bundle_is_one_that_it_loads() -> None:
    """A build that was committed in part, or beside an older one, would be half of each."""
    index = (FOLDER / "index.html").read_text()
    files = {path.name: path.read_text() for path in (FOLDER / "assets").iterdir()}
    wanted, reached = set(re.findall(r"/assets/([^\"]+)", index)), set()
    while wanted:
        name = wanted.pop()
        reached.add(name)
        wanted |= {other for other in files if other in files.get(name, "")} - reached
    assert reached == set(files)
