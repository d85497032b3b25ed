"""Prints the JSON Schema of everything that the page reads, for `npm run types`."""

import json

from pydantic.json_schema import models_json_schema

from serving import api, past_bodies


def schema() -> str:
    """All bodies under one root, so that their names are kept."""
    members = {**vars(api), **vars(past_bodies)}.values()
    bodies = [
        each for each in members if isinstance(each, type) and issubclass(each, api.Body) and each is not api.Body
    ]
    _, found = models_json_schema([(body, "serialization") for body in bodies], ref_template="#/$defs/{model}")
    names = sorted(body.__name__ for body in bodies)
    for body in found["$defs"].values():
        # A title of a field would become a type of its own; what a field means stands in docs/api.md.
        for field in (body, *body.get("properties", {}).values()):
            field.pop("title", None)
            field.pop("description", None)
        # All that has a value is sent.
        body["required"] = sorted(body.get("properties", {}))
    root = {
        "title": "Bodies",
        "type": "object",
        "additionalProperties": False,
        "properties": {name: {"$ref": f"#/$defs/{name}"} for name in names},
        "required": names,
    }
    return json.dumps({**root, "$defs": found["$defs"]}, indent=1, sort_keys=True)


if __name__ == "__main__":
    print(schema())
