"""The tasks of a stream: rows read, limited, parted into training and held-out ones, and rendered.

Which rows are taken and which are held out follows from a hash of their ids alone, so that it is the same in every run
and whatever the seed. Knows no method and no router.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks.continual.layouts import PlainRow, find_tasks
from benchmarks.continual.method import Task
from benchmarks.continual.metrics import METRICS
from cluster.errors import ClusterError
from learning.contract import Example
from learning.template import PromptTemplate

FACTS = "tasks.json"
"""File beside the tasks: {task: {"metric": name}}."""


@dataclass(frozen=True)
class Limits:
    """How many rows of each task are taken; None takes all."""

    train: int | None = None
    """Of the training file, those that are held out among them."""
    test: int | None = None
    held_out: float = 0.1
    """Share of the training file's rows that is held out."""


def read_tasks(
    folder: Path,
    template: PromptTemplate,
    names: Sequence[str] = (),
    limits: Limits = Limits(),
    metrics: Mapping[str, str] | None = None,
    *,
    prefixed: bool = False,
) -> tuple[Task, ...]:
    """The tasks of `folder` in the order of `names`, or all of them by name.

    `metrics` by task stand before those of the folder's `tasks.json`, these before the layout's own. Raises
    `ClusterError` where a task, a metric or rows are missing.
    """
    there = find_tasks(folder, prefixed=prefixed)
    facts = _facts(folder) | dict(metrics or {})
    tasks = []
    for name in names or there:
        if name not in there:
            raise ClusterError(f"task {name!r}: expected one of {sorted(there)} in {folder}")
        files = there[name]
        metric = facts.get(name, files.metric)
        if metric not in METRICS:
            raise ClusterError(f"task {name}: metric {metric!r}: expected one of {sorted(METRICS)}")
        train = _taken(files.read(files.train, f"{name}-train"), limits.train)
        held_out = [row for row in train if _share("held-out", row.id) < limits.held_out]
        kept = [row for row in train if _share("held-out", row.id) >= limits.held_out]
        test = _taken(files.read(files.test, f"{name}-test"), limits.test)
        for what, rows in (("to train on", kept), ("held out", held_out), ("to test by", test)):
            if not rows:
                raise ClusterError(f"task {name}: no rows {what} in {folder}; raise --train, --test or --held-out")
        tasks.append(Task(name, metric, *(_rendered(rows, template) for rows in (kept, held_out, test))))
    return tuple(tasks)


def _taken(rows: Sequence[PlainRow], limit: int | None) -> list[PlainRow]:
    """Those with the smallest hashes, in the file's order: a sorted file's rows come from all over it."""
    if limit is None or limit >= len(rows):
        return list(rows)
    last = sorted(_share("taken", row.id) for row in rows)[limit - 1] if limit else -1.0
    return [row for row in rows if _share("taken", row.id) <= last]


def _share(what: str, name: str) -> float:
    return int.from_bytes(hashlib.sha256(f"{what}\0{name}".encode()).digest()[:8], "big") / 2**64


def _rendered(rows: Sequence[PlainRow], template: PromptTemplate) -> tuple[Example, ...]:
    return tuple(
        Example(row.id, template.render([{"role": "user", "content": row.prompt}]), row.completion) for row in rows
    )


def _facts(folder: Path) -> dict[str, str]:
    path = folder / FACTS
    if not path.is_file():
        return {}
    try:
        return {name: str(facts["metric"]) for name, facts in json.loads(path.read_text(encoding="utf-8")).items()}
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ClusterError(f'{path}: expected {{"TASK": {{"metric": "NAME"}}}}, got {error!r}; mend it') from None
