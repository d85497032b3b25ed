"""What a run keeps on disk: a folder a course, in it a JSON file a cell and what the method had learned by the last.

A cell is written after its method's state and before the state that it replaces goes, each in one step, so that a run
goes on after the last whole cell wherever it was interrupted. Knows no method.
"""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.continual.method import ContinualMethod
from cluster.errors import ClusterError

ANSWER_DIGITS = 8
"""By which one row's answer is told from another."""
_FACTS, _SERVED = "course.json", "served.json"
ROUTER = "router "
"""Before the names of facts that not every run has to have."""


@dataclass(frozen=True)
class Course:
    """One method on one order of the tasks with one seed."""

    label: str
    order: int
    seed: int

    @property
    def folder(self) -> str:
        """Name of its folder."""
        return f"{re.sub(r'[^A-Za-z0-9=.,+_-]+', '-', self.label)}-order{self.order}-seed{self.seed}"


class CellStore:
    """The cells of one course; `facts` are what its figures depend on."""

    def __init__(self, work: Path, course: Course, facts: Mapping[str, Any]) -> None:
        """Raises `ClusterError` where cells of other facts lie there."""
        self._folder = work / "cells" / course.folder
        self._folder.mkdir(parents=True, exist_ok=True)
        path = self._folder / _FACTS
        written = json.loads(json.dumps(facts, sort_keys=True))
        if path.is_file():
            found = json.loads(path.read_text(encoding="utf-8"))
            other = sorted(key for key in {*found, *written} if not _same(key, found, written))
            if other:
                raise ClusterError(
                    f"{self._folder}: begun with other {', '.join(other)}; give another --work, or remove the folder"
                )
        else:
            _write(path, written)

    def cells(self) -> list[dict[str, Any]]:
        """All that are whole, in order."""
        found: list[dict[str, Any]] = []
        while (path := self._cell(len(found))).is_file():
            found.append(json.loads(path.read_text(encoding="utf-8")))
        return found

    def restore(self, method: ContinualMethod) -> int:
        """Gives a new method what it had learned; returns how many tasks that were."""
        count = len(self.cells())
        if count:
            method.load(self._state(count - 1))
        return count

    def add(self, place: int, cell: Mapping[str, Any], method: ContinualMethod) -> None:
        """Keeps the cell of the task at `place`."""
        state, partial = self._state(place), self._folder / "partial"
        for stale in (state, partial):
            shutil.rmtree(stale, ignore_errors=True)
        method.save(partial)
        partial.rename(state)
        _write(self._cell(place), cell)
        if place:
            shutil.rmtree(self._state(place - 1), ignore_errors=True)

    def served(self) -> dict[str, Any] | None:
        """What came of serving what it had learned by the last cell; None where that was not done since."""
        path = self._folder / _SERVED
        found = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
        return found if found.get("cells") == len(self.cells()) else None

    def add_served(self, figures: Mapping[str, Any]) -> None:
        """Keeps them."""
        _write(self._folder / _SERVED, {"cells": len(self.cells()), **figures})

    def _cell(self, place: int) -> Path:
        return self._folder / f"cell-{place:03}.json"

    def _state(self, place: int) -> Path:
        return self._folder / f"learned-{place:03}"


def count_cells(work: Path, course: Course) -> int:
    """Cells of a course that are there."""
    return len(list((work / "cells" / course.folder).glob("cell-*.json")))


def _same(key: str, found: Mapping[str, Any], written: Mapping[str, Any]) -> bool:
    # Routers may come and go between runs: they change nothing of what was learned.
    return found.get(key) == written.get(key) or (key.startswith(ROUTER) and (key not in found or key not in written))


def _write(path: Path, content: Any) -> None:
    partial = path.with_suffix(".partial")
    partial.write_text(json.dumps(content) + "\n", encoding="utf-8")
    partial.replace(path)


def told_apart(answers: str) -> list[str]:
    """Eight digits of each row's answer.

    >>> told_apart("0123456789abcdef")
    ['01234567', '89abcdef']
    """
    return [answers[start : start + ANSWER_DIGITS] for start in range(0, len(answers), ANSWER_DIGITS)]
