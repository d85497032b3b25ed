"""What pydantic found wrong, as one line a person can act on.

The line names the file or the override, the key, what was expected, what was there and what to do; for an unknown
key the nearest known one. What this module does not know: how a file is read.
"""

import difflib
import typing
from collections.abc import Iterator, Mapping
from types import UnionType
from typing import Any

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from configs.choice import KIND, sections_of
from configs.settings import Settings

_LONGEST_VALUE = 60
_GONE = {
    "features.standardise_examples": "remove it: the features' scale comes from a text of our own, not from the stream",
    "router.abstain_below": "remove it: the threshold follows from held-out examples; router.keep says what it keeps",
    "router.class_weighting": "remove it: router.head says how domains weigh",
}
"""Keys that older files hold, and what to do about them."""


def describe(error: ValidationError, file: str, written: Mapping[tuple[str, ...], str]) -> str:
    """One line for the first problem in `error`, with the number of further ones.

    `written` maps the key path of each override to its text, so that a wrong override is named, not the file.
    """
    problems = error.errors(include_url=False)
    first = problems[0]
    keys = _keys(first)
    where = next((f"--set {text}" for path, text in written.items() if keys[: len(path)] == path), file)
    if first["type"] == "disagreement":
        # Either side of a disagreement may have been overridden, so the override is mentioned, not blamed.
        where = file if where == file else f"{file} with {where}"
    line = f"{where}: {'.'.join(keys) or 'settings'}: {_complaint(first, keys)}"
    more = len(problems) - 1
    if more:
        line += f" (and {more} more problem{'s' if more > 1 else ''})"
    return line


def known_keys(model: type[BaseModel] = Settings, prefix: str = "") -> Iterator[str]:
    """Every dotted key of the tree, sections included, once; those of all kinds where a section is of several."""
    for name, field in model.model_fields.items():
        yield prefix + name
        below = (key for section in sections_of(field).values() for key in known_keys(section, f"{prefix}{name}."))
        yield from dict.fromkeys(below)


def _keys(problem: ErrorDetails) -> tuple[str, ...]:
    """The key path as it is written: pydantic counts a section's kind as a step of its own."""
    section: type[BaseModel] | None = Settings
    kinds: dict[str, type[BaseModel]] = {}
    keys: list[str] = []
    for part in map(str, problem["loc"]):
        if part in kinds:
            section, kinds = kinds[part], {}
            continue
        keys.append(part)
        field = section.model_fields.get(part) if section else None
        kinds = sections_of(field) if field else {}
        section = kinds.pop("", None)
    if problem["type"] == "disagreement":
        keys.extend(problem["ctx"]["path"].split("."))
    if problem["type"] == "union_tag_invalid":
        keys.append(KIND)
    return tuple(keys)


def _complaint(problem: ErrorDetails, keys: tuple[str, ...]) -> str:
    kind = problem["type"]
    if kind == "disagreement":
        return str(problem["ctx"]["message"])
    if kind == "union_tag_invalid":
        return _unknown_kind(problem["ctx"]["tag"], problem["ctx"]["expected_tags"])
    if kind == "extra_forbidden" and (remedy := _GONE.get(".".join(keys))):
        return f"unknown key, got {_shown(problem['input'])}; {remedy}"
    if kind == "extra_forbidden":
        return f"unknown key, got {_shown(problem['input'])}; {_nearest(keys)}"
    if kind == "missing":
        return f"expected {_form(keys)}, got nothing; add this key"
    got = _shown(problem["input"])
    hint = ""
    if kind == "string_type" and isinstance(problem["input"], (int, float, bool)):
        hint = f"; quote it: '{str(problem['input']).lower()}'"
    elif isinstance(problem["input"], str) and kind in ("int_type", "float_type", "bool_type"):
        hint = "; write it without quotes" if problem["input"].strip() else "; give it a value"
    elif kind == "literal_error":
        choices = [choice.strip(" '") for choice in problem["ctx"]["expected"].replace(" or ", ", ").split(",")]
        hint = f"; {_nearest_of(str(problem['input']), choices)}"
    return f"expected {_expected(problem)}, got {got}{hint or '; correct the value'}"


def _unknown_kind(kind: str, expected: str) -> str:
    choices = [choice.strip(" '") for choice in expected.split(",")]
    return f"expected {' or '.join(map(repr, choices))}, got {_shown(kind)}; {_nearest_of(kind, choices)}"


def _nearest_of(value: str, choices: list[str]) -> str:
    near = difflib.get_close_matches(value, choices, n=1)
    return f"did you mean {near[0]}?" if near else "take one of these"


def _expected(problem: ErrorDetails) -> str:
    if problem["type"] == "literal_error":
        return str(problem["ctx"]["expected"])
    if problem["type"] == "too_short":
        return f"at least {problem['ctx']['min_length']} in this list"
    message = problem["msg"]
    for opening, instead in (
        ("Input should be a valid ", "a "),
        ("Input should be an object", "a section"),
        ("Input should be a ", "a "),
        ("Input should be ", "a value "),
        ("String should ", "a string that should "),
    ):
        if message.startswith(opening):
            message = instead + message.removeprefix(opening)
            break
    # JSON's words for what the author of a YAML file knows by other names.
    for word, instead in (("a integer", "an integer"), ("a array", "a list"), ("a dictionary", "a section")):
        message = message.replace(word, instead)
    return message


def _nearest(keys: tuple[str, ...]) -> str:
    """Advice for an unknown key: the key of that name elsewhere, else the nearest in spelling, else what there is."""
    known = list(known_keys())
    section, leaf = ".".join(keys[:-1]), keys[-1]
    if ".".join(keys) in known:
        return f"another kind of {section} has it: leave it out, or choose that kind"
    siblings = [key.rpartition(".")[2] for key in known if key.rpartition(".")[0] == section]
    near = difflib.get_close_matches(leaf, siblings, n=1)
    if near:
        return f"did you mean {'.'.join((*keys[:-1], near[0]))}?"
    elsewhere = [key for key in known if key.rpartition(".")[2] == leaf]
    near = elsewhere or difflib.get_close_matches(".".join(keys), known, n=1)
    if near:
        return f"did you mean {near[0]}?"
    return f"remove it or take one of {', '.join(siblings)}"


def _form(keys: tuple[str, ...]) -> str:
    """In words, the kind of value that the key `keys` takes."""
    sections: list[type[BaseModel]] = [Settings]
    annotation: Any = None
    for key in keys:
        field = next(section.model_fields[key] for section in sections if key in section.model_fields)
        annotation, sections = field.annotation, list(sections_of(field).values())
    if sections:
        required = [name for name, field in sections[0].model_fields.items() if field.is_required()]
        return f"a section with {', '.join(required)}" if required else "a section"
    options = typing.get_args(annotation) if isinstance(annotation, UnionType) else (annotation,)
    words = {int: "an integer", float: "a number", bool: "true or false", str: "a string"}
    return " or ".join(words.get(option, "a value") for option in options if option is not type(None))


def _shown(value: object) -> str:
    text = repr(value)
    return text if len(text) <= _LONGEST_VALUE else text[: _LONGEST_VALUE - 3] + "..."
