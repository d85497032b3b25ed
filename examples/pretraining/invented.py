"""Invented domains: desks, calendars and numerals that exist nowhere, each with fixed words of its own.

A base that has memorised many such domains learns a new one quickly: its lower layers tell phrases apart, its upper
ones write a label, a copied field or a looked-up digit into a fixed layout. No instruction says what to do, only the
words of the prompt. All names are drawn; this module holds no word of the demo's domains and does not know them.
"""

import random
from collections.abc import Callable
from dataclasses import dataclass

from examples.pretraining.editing import Exchange
from examples.pretraining.formats import KEYS, NOTATIONS
from examples.pretraining.lookups import COMMON
from examples.pretraining.material import Material, code, made_up_word, number_text

FIELDS: dict[str, Callable[[random.Random, Material], str]] = {
    "number": lambda rng, m: number_text(rng),
    "code": lambda rng, m: code(rng),
    "name": lambda rng, m: m.name(rng),
    "contact": lambda rng, m: m.contact(rng),
    "word": lambda rng, m: made_up_word(rng),
    "path": lambda rng, m: f"/{rng.choice(m.words)}/{rng.choice((rng.choice(m.words), number_text(rng)))}",
    "clock": lambda rng, m: f"{rng.randint(0, 23):02d}:{rng.randint(0, 59):02d}:{rng.randint(0, 59):02d}",
    "decimal": lambda rng, m: f"{rng.randint(0, 999)}.{rng.randint(0, 99):02d}",
    "file": lambda rng, m: f"{rng.choice(m.words)}.{rng.choice(('txt', 'jpg', 'xml', 'doc', 'zip'))}",
}
ORDERS = ("{y}-{m}-{d}", "{y}-{m}-{d}", "{d}/{m}/{y}", "{m}/{d}/{y}", "{d}.{m}.{y}", "{d}-{m}-{y}", "{y}{m}{d}")


def _phrase(rng: random.Random, m: Material, shortest: int, longest: int) -> str:
    """A few words, the little ones of English among them."""
    count = rng.randint(shortest, longest)
    pools = rng.choices((COMMON, m.english, m.words), (3, 4, 3), k=count)
    return " ".join(rng.choice(pool).lower() for pool in pools)


@dataclass(frozen=True)
class Desk:
    """Phrases that decide labels, fields that are copied, and one layout for the answer."""

    phrases: tuple[tuple[str, tuple[str, ...]], ...]
    moods: tuple[tuple[str, tuple[str, ...]], ...]
    fields: tuple[str, ...]
    openings: tuple[str, ...]
    joint: tuple[str, ...]
    layouts: tuple[str, ...]

    def draw(self, rng: random.Random, m: Material) -> Exchange:
        which = rng.randrange(len(self.phrases))
        label, phrasings = self.phrases[which]
        values = {kind: FIELDS[kind](rng, m) for kind in self.fields}
        text = rng.choice(phrasings).format(**values)
        mood = ""
        if self.moods:
            mood, impacts = rng.choice(self.moods)
            halves = [text, rng.choice(impacts)]
            text = rng.choice(self.joint).join(halves if rng.random() < 0.7 else reversed(halves))
        text = rng.choice(self.openings) + text
        return text, self.layouts[which % len(self.layouts)].format(label=label, mood=mood, **values)


def invent_desk(rng: random.Random, m: Material) -> Desk:
    """A desk with up to six labels, perhaps a second label, and up to three fields."""
    fields = tuple(rng.sample(list(FIELDS), rng.randint(1, 3)))
    copied = fields[: rng.randint(0 if len(fields) < 3 else 1, 2)]
    moods = []
    if rng.random() < 0.45:
        moods = [(_phrase(rng, m, 1, 1), tuple(_phrase(rng, m, 2, 4) for _ in range(4))) for _ in range(3)]
    phrases = []
    for _ in range(rng.randint(2, 6)):
        phrasings = []
        for _ in range(rng.randint(2, 5)):
            words = _phrase(rng, m, 2, 5).split()
            for kind in fields:
                if kind in copied or rng.random() < 0.4:
                    words.insert(rng.randint(0, len(words)), f"{{{kind}}}")
            phrasings.append(" ".join(words))
        phrases.append((rng.choice(m.english).lower(), tuple(phrasings)))
    openings = ("", "", *(_phrase(rng, m, 1, 2) + rng.choice((" ", ", ", ": ")) for _ in range(2)))
    joint = tuple(rng.sample((", ", ". ", " - ", ": ", " "), 2))
    return Desk(tuple(phrases), tuple(moods), fields, openings, joint, _layouts(rng, m, bool(moods), copied))


def _layouts(rng: random.Random, m: Material, moody: bool, copied: tuple[str, ...]) -> tuple[str, ...]:
    """One layout of the answer for all labels, or for each its own: notation, or words around the holes."""
    holes = ["{label}"] + (["{mood}"] if moody else []) + [f"{{{kind}}}" for kind in copied]
    rng.shuffle(holes)
    if rng.random() < 0.6:
        notation = NOTATIONS[rng.choice(("json", "json", "json", "pairs", "tags", "call", "values", "query"))]
        marks = {key: f"@{number}@" for number, key in enumerate(rng.sample(KEYS, len(holes)))}
        layout = notation(marks).replace("{", "{{").replace("}", "}}")
        for mark, hole in zip(marks.values(), holes, strict=True):
            quoted = hole in ("{number}", "{decimal}") and rng.random() < 0.7
            layout = layout.replace(f'"{mark}"', hole) if quoted else layout
            layout = layout.replace(mark, hole)
        return (layout,)
    layouts = []
    for _ in range(rng.randint(1, 4)):
        pieces = [rng.choice(m.words)]
        for hole in holes:
            pieces += [rng.choice((" ", " ", "/", "=", " -", "('")), hole, rng.choice(("", " ", "')", ";", " to"))]
        layouts.append("".join([*pieces, rng.choice(("", "", " " + rng.choice(m.words)))]))
    return tuple(layouts)


@dataclass(frozen=True)
class Calendar:
    """Twelve words for the numbers 1 to 12 inside written dates, brought into one order of digits."""

    words: tuple[str, ...]
    patterns: tuple[str, ...]
    frames: tuple[str, ...]
    order: str

    def draw(self, rng: random.Random, m: Material) -> Exchange:
        day, month, year = rng.randint(1, 28), rng.randint(1, 12), rng.randint(1900, 2099)
        word = self.words[month - 1]
        word = word[:3] + "." if rng.random() < 0.1 else word
        written = rng.choice(self.patterns).format(d=day, w=word, y=year, e=rng.choice(self.words[12:]))
        text = rng.choice(self.frames).format(t=written, n=m.name(rng))
        return text, self.order.format(y=year, m=f"{month:02d}", d=f"{day:02d}")


def invent_calendar(rng: random.Random, m: Material) -> Calendar:
    """Month words, seven weekday-like words without meaning, patterns and frames."""
    words: dict[str, None] = {}
    while len(words) < 19:
        words[(rng.choice(m.words) if rng.random() < 0.6 else made_up_word(rng)).lower()] = None
    capital = rng.random() < 0.5
    named = tuple(word.capitalize() if capital else word for word in words)
    dot = rng.choice(("", "."))
    patterns = tuple(
        p.replace("D", "{d}" + dot)
        for p in rng.sample(("D {w} {y}", "D {w} {y}", "{e}, D {w} {y}", "{e} D {w} {y}", "{w} D, {y}", "{y} {w} D"), 4)
    )
    frames = [f"{_phrase(rng, m, 1, 2)} {{t}}" for _ in range(4)] + [f"{{t}}: {_phrase(rng, m, 1, 2)} {{n}}", "{t}"]
    frames += [f"{{n}} {_phrase(rng, m, 1, 2)} {{t}}", f"{_phrase(rng, m, 1, 2)} {{n}} {_phrase(rng, m, 1, 1)} {{t}}"]
    return Calendar(named, patterns, tuple(frame.capitalize() if capital else frame for frame in frames),
                    rng.choice(ORDERS))  # fmt: skip


@dataclass(frozen=True)
class Numerals:
    """Invented words for numbers below a thousand, composed in one way, with a unit and perhaps hundredths."""

    ones: tuple[str, ...]
    tens: tuple[str, ...]
    hundred: str
    joints: tuple[str, str]
    units: tuple[str, str]
    frames: tuple[str, ...]

    def spell(self, number: int) -> str:
        hundreds, rest = divmod(number, 100)
        parts = [f"{self.ones[hundreds - 1]} {self.hundred}"] if hundreds else []
        if 0 < rest < 20:
            parts.append(self.ones[rest - 1])
        elif rest:
            ten, one = divmod(rest, 10)
            parts.append(self.tens[ten - 2] + (self.joints[0] + self.ones[one - 1] if one else ""))
        return self.joints[1].join(parts)

    def draw(self, rng: random.Random, m: Material) -> Exchange:
        whole, part = rng.choice((rng.randint(1, 99), rng.randint(1, 999))), rng.choice((0, rng.randint(1, 99)))
        text = f"{self.spell(whole)} {self.units[0]}"
        if part:
            text += f"{self.joints[1]}{self.spell(part)} {self.units[1]}"
        return rng.choice(self.frames).format(t=text, n=m.name(rng)), f"{whole}.{part:02d}"


def invent_numerals(rng: random.Random, m: Material) -> Numerals:
    """Nineteen small numerals, eight tens that share an ending, a word for a hundred."""
    words: dict[str, None] = {}
    while len(words) < 30:
        word = made_up_word(rng).lower()
        words |= {word: None} if len(word) < 9 else {}
    drawn, ending = list(words), made_up_word(rng).lower()[:3]
    frames = ("{t}", f"{_phrase(rng, m, 1, 2)} {{t}}", f"{{t}} {_phrase(rng, m, 1, 2)} {{n}}",
              f"{{n}} {_phrase(rng, m, 1, 1)} {{t}}")  # fmt: skip
    return Numerals(tuple(drawn[:19]), tuple(word + ending for word in drawn[19:27]), drawn[27],
                    (rng.choice("- "), rng.choice((" ", " and ", ", "))), (drawn[28], drawn[29]), frames)  # fmt: skip


class InventedWorld:
    """All invented domains of one seed, drawn from as three kinds of transformation."""

    def __init__(self, seed: int, m: Material, desks: int = 60, calendars: int = 14, numerals: int = 6) -> None:
        rng = random.Random(f"invented/{seed}")
        self._desks = [invent_desk(rng, m) for _ in range(desks)]
        self._calendars = [invent_calendar(rng, m) for _ in range(calendars)]
        self._numerals = [invent_numerals(rng, m) for _ in range(numerals)]

    def desk(self, rng: random.Random, m: Material) -> Exchange:
        """A message to one of the desks and its filing."""
        return rng.choice(self._desks).draw(rng, m)

    def date(self, rng: random.Random, m: Material) -> Exchange:
        """A date of one of the calendars and its digits."""
        return rng.choice(self._calendars).draw(rng, m)

    def amount(self, rng: random.Random, m: Material) -> Exchange:
        """An amount in one of the numeral systems and its digits."""
        return rng.choice(self._numerals).draw(rng, m)
