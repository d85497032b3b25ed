"""Transformations through a table: pairs given in the prompt, and small vocabularies learned by heart.

Each takes ``(rng, material)`` and returns ``(prompt, completion)``. They build the skills of matching a key, of
recalling a code for a word, and of labelling a sentence by the words in it. The tables are of general kind (planets,
Greek letters, animals); months, numbers in words and the wording of any service desk are left out, since the demo's
domains must be new to the base.
"""

import random

from examples.pretraining.editing import Exchange, frame
from examples.pretraining.material import Material, number_text

SPELLED_WORDS = """alfa bravo charlie delta echo foxtrot golf hotel india juliett kilo lima mike november oscar papa
quebec romeo sierra tango uniform victor whiskey xray yankee zulu"""
GREEK_WORDS = """alpha beta gamma delta epsilon zeta eta theta iota kappa lambda mu nu xi omicron pi rho sigma tau
upsilon phi chi psi omega"""
SPELLED = {word: word[0] for word in SPELLED_WORDS.split()}
GREEK = dict(zip(GREEK_WORDS.split(), "αβγδεζηθικλμνξοπρστυφχψω", strict=True))
PLACES = {"mercury": "1", "venus": "2", "earth": "3", "mars": "4", "jupiter": "5", "saturn": "6", "uranus": "7",
          "neptune": "8", "white": "#fff", "black": "#000", "red": "#f00", "lime": "#0f0", "blue": "#00f",
          "yellow": "#ff0", "cyan": "#0ff", "magenta": "#f0f", "gold": "Au", "silver": "Ag", "iron": "Fe",
          "copper": "Cu", "tin": "Sn", "lead": "Pb", "zinc": "Zn", "neon": "Ne", "helium": "He", "carbon": "C",
          "oxygen": "O", "france": "FR", "germany": "DE", "spain": "ES", "italy": "IT", "poland": "PL", "japan": "JP",
          "china": "CN", "india": "IN", "brazil": "BR", "canada": "CA", "norway": "NO", "egypt": "EG"}  # fmt: skip
KINDS = {
    "animal": "dog cat horse cow sheep goat lion tiger bear wolf rabbit mouse eagle owl duck snake frog whale",
    "food": "bread cheese apple soup rice pasta honey butter onion carrot tomato cake sugar salt egg potato",
    "tool": "hammer saw drill wrench nail screw ladder shovel rake axe pliers chisel brush knife rope",
    "weather": "rain snow wind storm cloud fog thunder hail frost sunshine breeze drizzle ice heat",
    "music": "piano violin guitar drum flute song choir trumpet melody concert opera tune cello harp",
    "body": "hand foot head knee arm finger ear eye nose tooth shoulder heart back leg neck",
    "clothes": "shirt coat shoe hat glove sock scarf dress jacket belt boot trousers skirt cap",
    "plant": "tree rose grass oak pine tulip leaf moss fern bush ivy lily willow birch",
    "vehicle": "car train bus boat bicycle plane truck tram ship wagon scooter ferry van sled",
    "room": "kitchen bedroom attic cellar hall bathroom garage balcony porch corridor",
}
KIND_OF = {word: kind for kind, words in KINDS.items() for word in words.split()}
COMMON_WORDS = """the a my our we I you they it is was are were has had with without from near under over behind old
new big small very quite again still never always today please saw found took lost left gave and but or because there
here this that some many few no one went came looked asked said wanted could not did"""
COMMON = COMMON_WORDS.split()


def pairs_in_prompt(rng: random.Random, m: Material) -> Exchange:
    """The value of a key among pairs, in many punctuations."""
    keys = m.distinct_words(rng, rng.randint(2, 6))
    values = [m.token(rng) for _ in keys]
    link, gap = rng.choice((("=", ", "), (": ", "; "), ("=", " "), (" -> ", " / "), (":", "\n"), ("=", "&")))
    wanted = rng.randrange(len(keys))
    text = gap.join(f"{key}{link}{value}" for key, value in zip(keys, values, strict=True))
    return rng.choice(("{t}{g}{k}{l}", "{t} ? {k}", "{k} in {t}", "{t}\n{k}?")).format(
        t=text, k=keys[wanted], g=gap, l=link.rstrip()
    ), values[wanted]


def sequence_through_table(rng: random.Random, m: Material) -> Exchange:
    """Several symbols replaced one by one by a table given in the prompt."""
    keys = rng.sample("abcdefghijklmnopqrstuvwxyz", rng.randint(3, 6))
    values = [rng.choice((number_text(rng)[:2], rng.choice("ABCDEFGHIJKLMNOP"), m.word(rng)[:3])) for _ in keys]
    asked = [rng.randrange(len(keys)) for _ in range(rng.randint(1, 5))]
    table = " ".join(f"{key}>{value}" for key, value in zip(keys, values, strict=True))
    return f"{table} : {' '.join(keys[i] for i in asked)}", " ".join(values[i] for i in asked)


def spelling_words(rng: random.Random, m: Material) -> Exchange:
    """Words of the spelling alphabet or Greek letters to the letters they stand for."""
    table = SPELLED if rng.random() < 0.5 else GREEK
    words = [rng.choice(list(table)) for _ in range(rng.randint(1, 7))]
    letters = "".join(table[word] for word in words)
    if rng.random() < 0.2:
        return frame(rng, "spell", letters), " ".join(words)
    separator = rng.choice((" ", " ", "", "-", ", "))
    return rng.choice(("{}", "letters: {}", "{} as letters")).format(separator.join(words)), letters


def recall_code(rng: random.Random, m: Material) -> Exchange:
    """The code known by heart of a word inside noise, alone or beside a copied number."""
    word = rng.choice(list(PLACES))
    number = number_text(rng)
    if rng.random() < 0.5:
        words = m.sentence(rng, 25).split()
        words.insert(rng.randint(0, len(words)), rng.choice((word, word.capitalize(), word.upper())))
        return frame(rng, "code", " ".join(words)), PLACES[word]
    layout = rng.choice(("{c}-{n}", "{n}/{c}", "{n} {c}", "{c}{n}", "{n}-{c}"))
    text = rng.choice(("{n} {w}", "{w} {n}", "{n}. {w}", "{w} no {n}")).format(n=number, w=word.capitalize())
    return f"{layout.format(c='c', n='n')}: {text}", layout.format(c=PLACES[word], n=number)


def label_by_word(rng: random.Random, m: Material) -> Exchange:
    """What kind of thing a sentence speaks of, bare or wrapped."""
    word = rng.choice(list(KIND_OF))
    words = [rng.choice(COMMON) for _ in range(rng.randint(2, 8))]
    words.insert(rng.randint(0, len(words)), word if rng.random() < 0.7 else word + "s")
    text, kind = " ".join(words), KIND_OF[word]
    text = text.capitalize() if rng.random() < 0.5 else text
    verb, result = rng.choice((
        ("kind", kind), ("topic", kind), ("json kind", f'{{"kind":"{kind}"}}'), ("tag", f"#{kind}"),
        ("kind and words", f"{kind} {len(words)}"), ("kind and word", f"{kind}: {word}"),
    ))  # fmt: skip
    return frame(rng, verb, text), result


def label_two_ways(rng: random.Random, m: Material) -> Exchange:
    """Two independent labels of one sentence: the kind of its thing, and whether it denies, asks or states."""
    word = rng.choice(list(KIND_OF))
    words = [rng.choice(COMMON[:60]) for _ in range(rng.randint(2, 6))]
    words.insert(rng.randint(0, len(words)), word)
    mood, marks = rng.choice((("deny", "never"), ("ask", "?"), ("shout", "!"), ("state", ".")))
    words = [w for w in words if w not in ("never", "not", "no")]
    if mood == "deny":
        words.insert(rng.randint(0, len(words)), marks)
        marks = "."
    text = " ".join(words).capitalize() + marks
    layout = rng.choice(('{{"kind":"{k}","mood":"{m}"}}', "{k}/{m}", "{m} {k}", "kind={k};mood={m}"))
    return frame(rng, layout.format(k="kind", m="mood"), text), layout.format(k=KIND_OF[word], m=mood)


def by_example(rng: random.Random, m: Material) -> Exchange:
    """The rule has to be read off two or three worked examples."""
    rule = rng.choice((
        str.upper, str.capitalize, lambda s: s[::-1], lambda s: s[0], lambda s: s[-1], lambda s: s + s,
        lambda s: f"<{s}>", lambda s: f"{s}.txt", lambda s: f"{len(s)}", lambda s: f'"{s}"', lambda s: s[1:],
        lambda s: f"{s}={s}", lambda s: s[:2], lambda s: f"/{s}/", lambda s: f"no {s}", lambda s: f"{{{s}:1}}",
    ))  # fmt: skip
    words = m.distinct_words(rng, rng.randint(3, 4))
    link, gap = rng.choice(((" -> ", "\n"), ("=", " "), (": ", "; "), (" > ", " | ")))
    shown = gap.join(f"{word}{link}{rule(word)}" for word in words[:-1])
    return f"{shown}{gap}{words[-1]}{link.rstrip()}", rule(words[-1])


LOOKUPS = (pairs_in_prompt, sequence_through_table, spelling_words, recall_code, label_by_word, label_two_ways,
           by_example)  # fmt: skip
