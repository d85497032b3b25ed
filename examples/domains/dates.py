"""Two offices that keep dates written out: a German one that files them as ISO, a Dutch one as day-month-year.

The sentences look alike and share month names such as "april" and "november"; Babel's CLDR patterns write the dates.
This module does not know how records are written.
"""

import random
from datetime import date, timedelta

from babel.dates import format_date
from faker import Faker

Exchange = tuple[str, str]

PATTERNS_DE = ("d. MMMM y", "d. MMMM y", "EEEE, d. MMMM y", "dd. MMMM y", "d. MMM y", "EEEE, 'den' d. MMMM y")
PATTERNS_NL = ("d MMMM y", "d MMMM y", "EEEE d MMMM y", "dd MMMM y", "d MMM y", "EEEE, d MMMM y")
SENTENCES_DE = ("Rechnung vom {d}", "Termin am {d}", "Lieferung bis {d}", "geboren am {d}", "gültig ab {d}",
                "Die Frist endet am {d}.", "{d}, Besuch von Frau {n}", "Vertrag mit {n} vom {d}",
                "Herr {n} kommt am {d}", "Urlaub ab {d}", "{d}: Anruf von {n}", "Mahnung vom {d} an {n}")  # fmt: skip
SENTENCES_NL = ("Factuur van {d}", "Afspraak op {d}", "Levering vóór {d}", "geboren op {d}", "geldig vanaf {d}",
                "De termijn eindigt op {d}.", "{d}, bezoek van mevrouw {n}", "Contract met {n} van {d}",
                "Meneer {n} komt op {d}", "Vakantie vanaf {d}", "{d}: telefoontje van {n}",
                "Herinnering van {d} aan {n}")  # fmt: skip
FIRST_DAY = date(1960, 1, 1)
DAYS = (date(2035, 12, 31) - FIRST_DAY).days


def german(rng: random.Random, fake: Faker) -> Exchange:
    """A German note with a date, and the date as ``2024-03-07``."""
    day = FIRST_DAY + timedelta(days=rng.randint(0, DAYS))
    written = format_date(day, rng.choice(PATTERNS_DE), locale="de")
    return rng.choice(SENTENCES_DE).format(d=written, n=fake.last_name()), day.isoformat()


def dutch(rng: random.Random, fake: Faker) -> Exchange:
    """A Dutch note with a date, and the date as ``07-03-2024``."""
    day = FIRST_DAY + timedelta(days=rng.randint(0, DAYS))
    written = format_date(day, rng.choice(PATTERNS_NL), locale="nl")
    return rng.choice(SENTENCES_NL).format(d=written, n=fake.last_name()), f"{day:%d-%m-%Y}"
