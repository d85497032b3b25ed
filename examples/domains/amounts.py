"""Amounts of money in English words to digits, as in cheques and contracts; num2words writes the words.

This module does not know how records are written.
"""

import random

from faker import Faker
from num2words import num2words

Exchange = tuple[str, str]

FRAMES = ("{a}", "{a} only", "the sum of {a}", "pay {a}", "{n} owes {a}", "a deposit of {a}")


def in_words(rng: random.Random, fake: Faker) -> Exchange:
    """An amount below a hundred in words, and as ``42.07``."""
    euros, cents = rng.randint(1, 99), rng.choice((0, rng.randint(1, 99), rng.randint(1, 99), rng.randint(1, 99)))
    words = f"{num2words(euros)} euros" + (f" and {num2words(cents)} cents" if cents else "")
    return rng.choice(FRAMES).format(a=words, n=fake.first_name()), f"{euros}.{cents:02d}"
