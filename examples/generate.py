"""Generate the demo's stream: ``python -m examples.generate --out examples/stream``.

Every domain draws from its own seeded generators, so the files are the same byte for byte with the same versions of
Faker, Babel and num2words, and adding a domain changes no other. Prompts are unique within a domain, train and test
together, so no test prompt was seen in training. This module does not know any model.
"""

import argparse
import json
import random
from collections.abc import Callable
from pathlib import Path

from faker import Faker

from examples.domains import amounts, commands, dates, logs, tickets

Exchange = tuple[str, str]
DOMAINS: dict[str, tuple[Callable[[random.Random, Faker], Exchange], str]] = {
    "it-helpdesk": (tickets.helpdesk, "en_GB"),
    "german-dates": (dates.german, "de_DE"),
    "sales-sql": (commands.sql, "de_DE"),
    "access-log": (logs.access, "en_GB"),
    "shop-support": (tickets.shop, "en_GB"),
    "dutch-dates": (dates.dutch, "nl_NL"),
    "shell-commands": (commands.shell, "en_GB"),
    "service-log": (logs.service, "en_GB"),
    "amount-words": (amounts.in_words, "en_GB"),
}
TRAIN_ROWS, TEST_ROWS, SEED = 500, 80, 20
LONGEST_PROMPT, LONGEST_COMPLETION = 110, 56


def rows(slug: str) -> list[dict[str, str | None]]:
    """All records of one domain, the train rows first; lengths above are in bytes and longer drafts are redrawn."""
    draw, locale = DOMAINS[slug]
    rng, fake = random.Random(f"{SEED}/{slug}"), Faker(locale)
    fake.seed_instance(f"{SEED}/{slug}")
    found: dict[str, str] = {}
    while len(found) < TRAIN_ROWS + TEST_ROWS:
        prompt, completion = draw(rng, fake)
        if len(prompt.encode()) <= LONGEST_PROMPT and len(completion.encode()) <= LONGEST_COMPLETION:
            found.setdefault(prompt, completion)
    return [
        {
            "id": f"{slug}-{number:04d}",
            "domain": slug,
            "prompt": prompt,
            "completion": completion,
            "split": None if number < TRAIN_ROWS else "test",
        }
        for number, (prompt, completion) in enumerate(found.items())
    ]


def write(slug: str, out: Path) -> None:
    """Write ``<slug>.train.jsonl`` and ``<slug>.test.jsonl``."""
    records = rows(slug)
    for part, chosen in (("train", records[:TRAIN_ROWS]), ("test", records[TRAIN_ROWS:])):
        lines = (json.dumps(row, ensure_ascii=False, separators=(",", ":")) + "\n" for row in chosen)
        (out / f"{slug}.{part}.jsonl").write_text("".join(lines), encoding="utf-8", newline="\n")


def main() -> None:
    """Write all domains."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "stream", help="folder to write")
    out = parser.parse_args().out
    out.mkdir(parents=True, exist_ok=True)
    for slug in DOMAINS:
        write(slug, out)


if __name__ == "__main__":
    main()
