"""Transformations of layout: fields out of one notation into another.

Each takes ``(rng, material)`` and returns ``(prompt, completion)``. They build the skills of writing JSON, calls, tags
and separated values around copied spans, in an order the prompt asks for. This module does not know any real schema:
all keys are drawn.
"""

import random
from collections.abc import Callable

from examples.pretraining.editing import Exchange
from examples.pretraining.material import Material

KEYS = ("id", "name", "size", "colour", "kind", "value", "key", "count", "place", "who", "x", "y", "z", "a", "b",
        "code", "age", "note", "title", "weight", "owner", "model", "unit", "flag", "speed", "shape")  # fmt: skip


def _fields(rng: random.Random, m: Material, fewest: int = 1, most: int = 4) -> dict[str, str]:
    keys = rng.sample(KEYS, rng.randint(fewest, most))
    if rng.random() < 0.4:
        keys = [word.replace('"', "") for word in m.distinct_words(rng, len(keys))]
    return {key: m.token(rng) for key in keys}


def _json(fields: dict[str, str]) -> str:
    values = (value if value.isdigit() and str(int(value)) == value else f'"{value}"' for value in fields.values())
    return "{" + ",".join(f'"{key}":{value}' for key, value in zip(fields, values, strict=True)) + "}"


NOTATIONS: dict[str, Callable[[dict[str, str]], str]] = {
    "json": _json,
    "pairs": lambda f: ", ".join(f"{key}={value}" for key, value in f.items()),
    "ini": lambda f: "\n".join(f"{key} = {value}" for key, value in f.items()),
    "yaml": lambda f: "\n".join(f"{key}: {value}" for key, value in f.items()),
    "query": lambda f: "?" + "&".join(f"{key}={value}" for key, value in f.items()),
    "tags": lambda f: "".join(f"<{key}>{value}</{key}>" for key, value in f.items()),
    "call": lambda f: "f(" + ", ".join(f"{key}='{value}'" for key, value in f.items()) + ")",
    "flags": lambda f: "run " + " ".join(f"--{key} {value}" for key, value in f.items()),
    "values": lambda f: ",".join(f.values()),
    "bars": lambda f: "|".join(f.values()),
    "keys": lambda f: " ".join(f),
    "list": lambda f: "[" + ",".join(f'"{value}"' for value in f.values()) + "]",
}
READABLE = ("json", "pairs", "ini", "yaml", "query", "tags", "call", "flags")


def renotate(rng: random.Random, m: Material) -> Exchange:
    """All fields from one notation into another."""
    fields = _fields(rng, m, 1, 3)
    target = rng.choice(list(NOTATIONS))
    source = NOTATIONS[rng.choice(READABLE)](fields)
    layout = rng.choice(("to {t}: {s}", "{s}\nas {t}", "{t} <- {s}"))
    return layout.format(t=target, s=source), NOTATIONS[target](fields)


def select_fields(rng: random.Random, m: Material) -> Exchange:
    """Some fields, in the order asked for, in a notation asked for."""
    fields = _fields(rng, m, 3, 5)
    wanted = rng.sample(list(fields), rng.randint(1, 2))
    target = rng.choice(list(NOTATIONS))
    source = NOTATIONS[rng.choice(READABLE)](fields)
    return f"{' '.join(wanted)} as {target}: {source}", NOTATIONS[target]({key: fields[key] for key in wanted})


def name_columns(rng: random.Random, m: Material) -> Exchange:
    """A bare row of values gets the names given before it; some columns may be skipped."""
    fields = _fields(rng, m, 2, 5)
    gap = rng.choice((" ", " ", ",", "|", "\t", "; "))
    row = gap.join(fields.values())
    shown = {key: value for key, value in fields.items() if rng.random() < 0.7} or fields
    header = gap.join(key if key in shown else "_" for key in fields)
    target = rng.choice(("json", "json", "pairs", "tags", "call"))
    return f"{target}\n{header}\n{row}", NOTATIONS[target](shown)


def fill_template(rng: random.Random, m: Material) -> Exchange:
    """A pattern with holes and the values that go in, possibly twice."""
    fields = _fields(rng, m, 1, 3)
    pieces = []
    for key in rng.sample(list(fields), len(fields)):
        pieces += [rng.choice((m.word(rng), rng.choice("-/:.,=<>()[]"), " ", "")), f"{{{key}}}"]
    pattern = "".join(pieces) + rng.choice(("", "", "!", ")", " " + m.word(rng), ";"))
    filled = pattern
    for key, value in fields.items():
        filled = filled.replace(f"{{{key}}}", value)
    values = ", ".join(f"{key}={value}" for key, value in fields.items())
    return rng.choice((f"{pattern} | {values}", f"{values}\n{pattern}")), filled


def sentence_to_call(rng: random.Random, m: Material) -> Exchange:
    """Slots of an everyday sentence into a call; the verb decides the name, the little words the order."""
    what, where, amount = m.word(rng), m.name(rng), rng.randint(2, 99)
    said, call = rng.choice((
        (f"put {what} into {where}", f"put({what},{where})"),
        (f"move {amount} {what} to {where}", f"move({where},{what},{amount})"),
        (f"is {what} in {where}?", f"has({where},{what})"),
        (f"take {what} away from {where}", f"take({where},{what})"),
        (f"paint {what} for {where}", f"paint({what})->{where}"),
        (f"bring {where} the {what}", f"give({where},{what})"),
        (f"throw away {amount} of the {what}", f"drop({what},{amount})"),
        (f"name the {what} of {where}", f"{where}.{what}"),
        (f"swap {what} with {where}", f"swap({what},{where})"),
        (f"wait {amount} hours for {what}", f"wait({what},h={amount})"),
    ))  # fmt: skip
    opening = rng.choice(("", "", "please ", "now ", "could you ", "i want to "))
    text = opening + said
    return (text[0].upper() + text[1:] if rng.random() < 0.5 else text) + rng.choice(("", "", ".")), call


def split_row(rng: random.Random, m: Material) -> Exchange:
    """One field of a separated row, by its position."""
    row = [m.token(rng) for _ in range(rng.randint(3, 6))]
    gap = rng.choice((",", "|", ";", "\t", " - ", " "))
    position = rng.randrange(len(row))
    layout = rng.choice(("field {n}: {t}", "{t} [{n}]", "column {n} of {t}"))
    return layout.format(n=position + 1, t=gap.join(row)), row[position]


FORMATS = (renotate, select_fields, name_columns, fill_template, sentence_to_call, split_row)
