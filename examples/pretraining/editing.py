"""Transformations of a text as such: copying, picking, reversing, changing letters, small sums.

Each takes ``(rng, material)`` and returns ``(prompt, completion)``. They build the skills of copying a span exactly and
of finding it by position or by kind. This module does not know the formats or lookups of its sister modules.
"""

import random

from examples.pretraining.material import Material, code, made_up_word, number_text

Exchange = tuple[str, str]


def frame(rng: random.Random, verb: str, text: str) -> str:
    """Instruction and text in one of several layouts, so that no single layout carries the task."""
    layout = rng.choice(("{v}: {t}", "{v} {t}", "{t} | {v}", "{v}\n{t}", "{t} -> {v}", "[{v}] {t}", "{t} ({v}?)"))
    return layout.format(v=verb, t=text)


def copy(rng: random.Random, m: Material) -> Exchange:
    text = m.sentence(rng) if rng.random() < 0.5 else " ".join(m.token(rng) for _ in range(rng.randint(1, 4)))
    return frame(rng, rng.choice(("repeat", "copy", "say again", "echo")), text), text


def change_case(rng: random.Random, m: Material) -> Exchange:
    text = " ".join(m.token(rng) for _ in range(rng.randint(1, 4)))
    verb, result = rng.choice(
        (("upper", text.upper()), ("lower", text.lower()), ("swap case", text.swapcase()), ("title", text.title()))
    )
    return frame(rng, verb, text), result


def reverse(rng: random.Random, m: Material) -> Exchange:
    if rng.random() < 0.5:
        words = [m.word(rng) for _ in range(rng.randint(2, 5))]
        return frame(rng, "reverse words", " ".join(words)), " ".join(reversed(words))
    text = rng.choice((made_up_word, code, number_text))(rng)
    return frame(rng, "mirror", text), text[::-1]


def pick_word(rng: random.Random, m: Material) -> Exchange:
    words = (m.sentence(rng) if rng.random() < 0.5 else " ".join(m.token(rng) for _ in range(6))).split()
    position = rng.randrange(min(len(words), 6))
    verb = rng.choice((f"word {position + 1}", f"#{position + 1}"))
    if rng.random() < 0.3:
        verb, position = rng.choice((("first word", 0), ("last word", -1)))
    return frame(rng, verb, " ".join(words)), words[position]


def pick_neighbour(rng: random.Random, m: Material) -> Exchange:
    words = m.distinct_words(rng, rng.randint(4, 7))
    position = rng.randrange(1, len(words) - 1)
    step, verb = rng.choice(((1, "after"), (-1, "before")))
    return frame(rng, f"{verb} {words[position]}", " ".join(words)), words[position + step]


def pick_by_kind(rng: random.Random, m: Material) -> Exchange:
    """One outstanding token hidden in a sentence: a number, an address, a name, a quotation, a path."""
    token, verb = rng.choice(
        (
            (number_text(rng), "number"),
            (m.contact(rng), "address"),
            (f"{rng.randint(0, 23):02d}:{rng.randint(0, 59):02d}", "time"),
            (f"{rng.randint(0, 999)}.{rng.randint(0, 99):02d}", "decimal"),
            (f"/{made_up_word(rng).lower()}/{made_up_word(rng).lower()}", "path"),
            (f"{made_up_word(rng).lower()}.{rng.choice(('txt', 'csv', 'log', 'py', 'jpg'))}", "file"),
            (m.name(rng).upper(), "capitals"),
        )
    )
    words = m.sentence(rng, 45).split()
    words.insert(rng.randint(0, len(words)), token)
    return frame(rng, rng.choice((verb, f"find {verb}", f"the {verb}")), " ".join(words)), token


def pick_quoted(rng: random.Random, m: Material) -> Exchange:
    left, right = rng.choice(('""', "''", "()", "[]", "<>", "{}", "**"))
    inside = " ".join(m.word(rng) for _ in range(rng.randint(1, 3)))
    words = m.sentence(rng, 40).split()
    words.insert(rng.randint(0, len(words)), left + inside + right)
    return frame(rng, f"inside {left}{right}", " ".join(words)), inside


def replace_letters(rng: random.Random, m: Material) -> Exchange:
    text = " ".join(m.word(rng) for _ in range(rng.randint(2, 4)))
    old, new = rng.choice(" -_./"), rng.choice("-_./+ ,;")
    if rng.random() < 0.5:
        text = text.replace(" ", old)
    elif text.strip():
        old = rng.choice(text.replace(" ", "") or "a")
    return frame(rng, f"'{old}' to '{new}'", text), text.replace(old, new)


def rearrange_words(rng: random.Random, m: Material) -> Exchange:
    words = m.distinct_words(rng, rng.randint(2, 5))
    verb, result = rng.choice(
        (
            ("sort", " ".join(sorted(words))),
            ("initials", "".join(word[0] for word in words)),
            ("how many words", str(len(words))),
            ("join", "".join(words)),
            ("commas", ",".join(words)),
            ("lines", "\n".join(words)),
            ("dashes", "-".join(word.lower() for word in words)),
            ("twice", " ".join([*words, *words])),
            ("without first", " ".join(words[1:])),
            ("first and last", f"{words[0]} {words[-1]}"),
        )
    )
    return frame(rng, verb, " ".join(words)), result


def calculate(rng: random.Random, m: Material) -> Exchange:
    a, b, c = rng.randint(0, 99), rng.randint(0, 20), rng.randint(0, 9)
    expression, result = rng.choice(
        (
            (f"{a}+{b}", a + b),
            (f"{a + b}-{b}", a),
            (f"{c}*{b % 10}", c * (b % 10)),
            (f"{a} {a + c} {a + 2 * c} ...", a + 3 * c),
            (f"larger: {a} {b}", max(a, b)),
            (f"smaller: {a} {b}", min(a, b)),
        )
    )
    return rng.choice(("{}", "{} =", "sum {}", "{} ?")).format(expression), str(result)


def pad_number(rng: random.Random, m: Material) -> Exchange:
    number, width = rng.randint(0, 999), rng.choice((2, 2, 2, 3, 4))
    verb, result = rng.choice(
        (
            (f"{width} digits", f"{number:0{width}d}"),
            ("two decimals", f"{number}.00"),
            ("hundredths", f"{number // 100}.{number % 100:02d}"),
            ("thousands", f"{number},000"),
            ("no zeros", str(number)),
        )
    )
    text = f"{number:05d}" if verb == "no zeros" else str(number)
    return frame(rng, verb, text), result


def rearrange_digits(rng: random.Random, m: Material) -> Exchange:
    """Digit groups between separators in a new order, with or without leading zeros."""
    parts = {"d": rng.randint(1, 31), "m": rng.randint(1, 12), "y": rng.randint(1900, 2099)}
    separators, orders = "-/. :", ("dmy", "mdy", "ymd", "ydm", "md", "dm", "my")
    target = rng.choice(orders)
    source = rng.choice([order for order in orders if set(target) <= set(order)])
    s, t = rng.choice(separators), rng.choice(separators)
    text = s.join(str(parts[key]) if rng.random() < 0.5 else f"{parts[key]:02d}" for key in source)
    result = t.join(f"{parts[key]:02d}" for key in target)
    if rng.random() < 0.4:
        words = m.sentence(rng, 30).split()
        words.insert(rng.randint(0, len(words)), text)
        text = " ".join(words)
    return frame(rng, f"{source} to {target} with '{t}'", text), result


EDITING = (copy, change_case, reverse, pick_word, pick_neighbour, pick_by_kind, pick_quoted, replace_letters,
           rearrange_words, calculate, pad_number, rearrange_digits)  # fmt: skip
