"""Tables of a result, and the page that shows them: sections of `docs/scale.md` between `<!-- NAME -->` marks."""

from __future__ import annotations

import re
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

PAGE = Path(__file__).parents[2] / "docs" / "scale.md"
Result = Mapping[str, Any]


def tables(result: Result) -> dict[str, str]:
    """Markdown tables by the name of their section, of the parts that the result has."""
    made = {"learners": _learners, "range": _range, "replicas": _replicas}
    return {f"elastic-{part}": make(result[part]) for part, make in made.items() if part in result}


def fill(page: str, result: Result) -> str:
    """The page with the tables renewed. Raises `SystemExit` for a page that lacks a section."""
    for name, table in tables(result).items():
        pattern = re.compile(rf"(<!-- {name} -->\n).*?(<!-- /{name} -->)", re.DOTALL)
        page, found = pattern.subn(lambda match, table=table: f"{match[1]}{table}{match[2]}", page)  # type: ignore[misc]
        if found != 1:
            raise SystemExit(f"the page has {found} sections {name!r}: expected one, from <!-- {name} --> to its end")
    return page


def _learners(part: Result) -> str:
    rows = []
    for count, runs in _by_count(part["runs"], "learners").items():
        gaps = [gap for run in runs for gap in run["idle_between_seconds"]]
        rows.append(
            (
                count,
                _each(60 * run["rate"] for run in runs),
                _each((run["seconds"] for run in runs), 1),
                f"{statistics.median(gaps):.2f}, {max(gaps):.2f}",
                _efficiency(part, count),
            )
        )
    heads = ("learners", "trainings a minute", "the backlog, s", "idle between two, s: median, most", "efficiency")
    return _table(heads, rows)


def _range(part: Result) -> str:
    rows = [
        (
            run["range"],
            run["domains"],
            ", ".join(f"{each:.1f}" for each in run["fed_to_learning_seconds"]),
            f"{run['fed_to_published_seconds']:.1f}",
            f"{run['last_training_to_none_seconds']:.1f} ({run['idle_seconds']:g})",
        )
        for run in part["runs"]
    ]
    heads = (
        *("range", "domains"),
        "from the records to the first training of each learner, s",
        "to all published, s",
        "from the last training to none, s (`learner.idle_seconds`)",
    )
    return _table(heads, rows)


def _replicas(part: Result) -> str:
    rows = [
        (
            count,
            runs[0]["clients"],
            _each(run["rate"] for run in runs),
            f"{runs[0]['bound']:g}",
            sum(run["failed"] for run in runs),
            _efficiency(part, count),
        )
        for count, runs in _by_count(part["runs"], "replicas").items()
    ]
    return _table(("replicas", "clients", "answers a second", "of at most", "failed", "efficiency"), rows)


def _by_count(runs: Sequence[Result], what: str) -> dict[int, list[Result]]:
    counts = sorted({run[what] for run in runs})
    return {count: [run for run in runs if run[what] == count] for count in counts}


def _efficiency(part: Result, count: int) -> str:
    found = part["efficiency"][str(count)]
    return f"{found['median']:.3f}"


def _each(values: Any, digits: int = 2) -> str:
    return ", ".join(f"{value:.{digits}f}" for value in values)


def _table(heads: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    lines = [heads, ["---"] * len(heads), *rows]
    return "".join(f"| {' | '.join(map(str, line))} |\n" for line in lines)
