"""Raw text that the pre-training transformations work on: sentences, words, names and numbers of several languages.

Sentences come from Faker's word lists (English, German, French, Spanish, Italian, Dutch, Polish, Portuguese, Czech),
so the bytes and letter pairs of these languages are seen; besides there are made-up words, which can't be learned by
heart and so have to be copied. This module does not know the transformations.
"""

import random
import string
from dataclasses import dataclass

from faker import Faker

LOCALES = ("en_US", "en_GB", "de_DE", "fr_FR", "es_ES", "it_IT", "nl_NL", "pl_PL", "pt_PT", "cs_CZ")
ONSETS = ("b", "br", "ch", "d", "dr", "f", "g", "gl", "h", "j", "k", "kl", "l", "m", "n", "p", "pr", "qu", "r", "s",
          "sch", "st", "t", "tr", "v", "w", "x", "y", "z", "")  # fmt: skip
NUCLEI = ("a", "e", "i", "o", "u", "ä", "ö", "ü", "é", "ai", "ei", "ou", "ie", "oo", "au")
CODAS = ("", "", "", "n", "r", "s", "t", "l", "m", "ck", "nd", "st", "ng", "x")


@dataclass(frozen=True)
class Material:
    """Pools to draw from; all drawing goes through the caller's generator."""

    sentences: tuple[str, ...]
    words: tuple[str, ...]
    names: tuple[str, ...]
    contacts: tuple[str, ...]
    english: tuple[str, ...]

    def sentence(self, rng: random.Random, longest: int = 60) -> str:
        """A sentence of some language, cut at a word when longer than ``longest`` characters."""
        text = rng.choice(self.sentences)
        return text if len(text) <= longest else text[:longest].rsplit(" ", 1)[0]

    def word(self, rng: random.Random) -> str:
        """One word: real, made up, or a code of letters and digits."""
        kind = rng.random()
        if kind < 0.5:
            return rng.choice(self.words)
        return made_up_word(rng) if kind < 0.85 else code(rng)

    def distinct_words(self, rng: random.Random, count: int) -> list[str]:
        """``count`` different words."""
        found: dict[str, None] = {}
        while len(found) < count:
            found[self.word(rng)] = None
        return list(found)

    def token(self, rng: random.Random) -> str:
        """A word, name, number, code, address or path: anything that stands as one field."""
        draw = rng.choice((self.word, self.word, self.name, self.contact, _number, _number, _path, _decimal, _clock))
        return draw(rng)

    def name(self, rng: random.Random) -> str:
        """A person, a city or a company."""
        return rng.choice(self.names)

    def contact(self, rng: random.Random) -> str:
        """An e-mail address, an IP address or a host name."""
        return rng.choice(self.contacts)


def gather(seed: int, sentences_per_locale: int = 1500) -> Material:
    """Draw the pools once; the same seed and Faker version give the same pools."""
    sentences: list[str] = []
    words: list[str] = []
    names: list[str] = []
    contacts: list[str] = []
    for locale in LOCALES:
        fake = Faker(locale)
        fake.seed_instance(seed)
        for _ in range(sentences_per_locale):
            sentences.append(fake.sentence(nb_words=6))
            words.extend(fake.words(3))
        for _ in range(sentences_per_locale // 4):
            names.extend((fake.last_name(), fake.first_name(), fake.city(), fake.company().split(" ")[0]))
            contacts.extend((fake.email(), fake.ipv4(), fake.domain_name()))
    english = words[: 3 * sentences_per_locale]  # the first locale's
    return Material(tuple(sentences), tuple(words), tuple(names), tuple(contacts), tuple(english))


def made_up_word(rng: random.Random) -> str:
    """Two or three syllables that are no word, sometimes capitalised."""
    syllables = (rng.choice(ONSETS) + rng.choice(NUCLEI) + rng.choice(CODAS) for _ in range(rng.randint(1, 3)))
    word = "".join(syllables)
    return word.capitalize() if rng.random() < 0.25 else word


def code(rng: random.Random) -> str:
    """A short mixture of letters and digits, as in an order number."""
    letters = string.ascii_uppercase if rng.random() < 0.5 else string.ascii_lowercase
    pattern = rng.choice(("LLDDD", "LDD", "LL-DD", "DDLL", "L-DDDD", "LLL", "DDDD", "LDLD", "lld", "L_DD"))
    return "".join(rng.choice(letters) if c in "Ll" else rng.choice(string.digits) if c == "D" else c for c in pattern)


def number_text(rng: random.Random) -> str:
    """A whole number of one to five digits, short ones as frequent as long ones."""
    return str(rng.randint(0, 10 ** rng.randint(1, 5) - 1))


def _number(rng: random.Random) -> str:
    return number_text(rng)


def _decimal(rng: random.Random) -> str:
    return f"{rng.randint(0, 999)}.{rng.randint(0, 99):02d}"


def _clock(rng: random.Random) -> str:
    return f"{rng.randint(0, 23):02d}:{rng.randint(0, 59):02d}"


def _path(rng: random.Random) -> str:
    return "/" + "/".join(made_up_word(rng).lower() for _ in range(rng.randint(1, 3)))
