"""Two tasks that turn a wish into a command: questions about a sales table to SQL, and wishes to shell commands.

The schema is ``sales(city, item, total, year)``. This module does not know how records are written.
"""

import random

from faker import Faker

Exchange = tuple[str, str]

QUESTIONS = {
    "SELECT count(*) FROM sales WHERE {w}": ("How many sales {p}?", "Count the sales {p}", "Number of sales {p}?"),
    "SELECT sum(total) FROM sales WHERE {w}": ("What did we earn {p}?", "Total revenue {p}?", "Add up the sales {p}"),
    "SELECT avg(total) FROM sales WHERE {w}": ("What is the average sale {p}?", "Mean value of a sale {p}?"),
    "SELECT max(total) FROM sales WHERE {w}": ("What was the largest sale {p}?", "Show the biggest sale {p}"),
    "SELECT * FROM sales WHERE {w}": ("List all sales {p}", "Show me every sale {p}", "Which sales were made {p}?"),
}
ITEMS = ("desk", "lamp", "chair", "sofa", "shelf", "rug", "bed", "table", "mirror", "stool")
STEMS = ("app", "main", "data", "notes", "report", "users", "test", "config", "backup", "index", "old", "orders",
         "draft")  # fmt: skip
ENDINGS = ("log", "txt", "csv", "py", "json", "md", "sh", "conf")
FOLDERS = ("src", "logs", "docs", "tmp", "build", "images", "lib", "data", "archive")
TERMS = ("error", "TODO", "timeout", "admin", "token", "port", "import", "warning", "user", "null", "retry", "debug")
WISHES = (
    ("tail -n {n} {f}", ("show the last {n} lines of {f}", "end of {f}, {n} lines")),
    ("head -n {n} {f}", ("show the first {n} lines of {f}", "top {n} lines of {f} please")),
    ("wc -l {f}", ("how many lines are in {f}", "count the lines of {f}")),
    ("grep -n {t} {f}", ("search {f} for {t}", "where does {t} occur in {f}")),
    ("grep -c {t} {f}", ("how often does {t} occur in {f}", "count {t} in {f}")),
    ("find {d} -name '*.{e}'", ("find all {e} files under {d}", "which {e} files are below {d}")),
    ("mkdir -p {d}/{s}", ("make a folder {s} in {d}", "create folder {s} in {d}")),
    ("cp {f} {d}/", ("copy {f} to {d}", "put a copy of {f} into {d}")),
    ("mv {f} {d}/", ("move {f} to {d}", "shift {f} into {d}")),
    ("rm {d}/{f}", ("delete {f} in {d}", "remove {f} from {d}")),
    ("du -sh {d}/{s}", ("how big is {s} in {d}", "disk space of {s} in {d}")),
    ("chmod +x {f}", ("make {f} executable", "allow {f} to run")),
)


def sql(rng: random.Random, fake: Faker) -> Exchange:
    """A question about sales and its query with one condition, on city, item or year."""
    query = rng.choice(list(QUESTIONS))
    city, item, year = fake.city(), rng.choice(ITEMS), rng.randint(1998, 2031)
    phrase, condition = rng.choice((
        (f"in {city}", f"city='{city}'"), (f"for {city}", f"city='{city}'"),
        (f"of item {item} in {year}", f"item='{item}' AND year={year}"),
        (f"in {year}", f"year={year}"), (f"since {year}", f"year>={year}"), (f"before {year}", f"year<{year}"),
    ))  # fmt: skip
    return rng.choice(QUESTIONS[query]).format(p=phrase), query.format(w=condition)


def shell(rng: random.Random, fake: Faker) -> Exchange:
    """A wish and the command that fulfils it."""
    command, wishes = rng.choice(WISHES)
    slots = {"n": rng.randint(2, 99), "f": f"{rng.choice(STEMS)}.{rng.choice(ENDINGS)}", "t": rng.choice(TERMS),
             "d": rng.choice(FOLDERS), "e": rng.choice(ENDINGS), "s": rng.choice(STEMS)}  # fmt: skip
    return rng.choice(("", "", "please ")) + rng.choice(wishes).format(**slots), command.format(**slots)
