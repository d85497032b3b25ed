"""Amounts of money in English words to digits, as in cheques and contracts; num2words writes the words.

This module does not know how records are written.
"""

import random

from faker import Faker
from num2words import num2words

Exchange = tuple[str, str]

FRAMES = ("{a}", "{a} only", "the sum of {a}", "pay {a}", "{n} owes {a}", "a deposit of {a}", "receipt: {a}",
          "{a} for {n}")  # fmt: skip


def in_words(rng: random.Random, fake: Faker) -> Exchange:
    """An amount below a thousand in words, and as ``412.07``."""
    euros = rng.randint(1, 99) if rng.random() < 0.4 else rng.randint(100, 999)
    cents = rng.choice((0, rng.randint(1, 99), rng.randint(1, 99)))
    words = f"{num2words(euros)} {rng.choice(('euros', 'euros', 'eur'))}"
    if cents:
        words += f" and {num2words(cents)} cents"
    return rng.choice(FRAMES).format(a=words, n=fake.first_name()), f"{euros}.{cents:02d}"
