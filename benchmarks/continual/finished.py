"""The result's file, and the courses that an earlier one holds: what depends on the same facts is not run again,
wherever its cells are.

A result is small enough to be kept with the code; the cells of a long run, with all that was learned, are not.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from benchmarks.continual.cells import Course
from benchmarks.continual.plan import ContinualPlan
from cluster.errors import ClusterError


def digest_of(plan: ContinualPlan, course: Course) -> str:
    """sha256 of what the course's figures depend on."""
    return hashlib.sha256(json.dumps(plan.facts(course), sort_keys=True).encode()).hexdigest()


def finished(plan: ContinualPlan, result: Path) -> dict[Course, Mapping[str, Any]]:
    """The plan's courses that a result file holds as they would come out again; none where there is no file.

    Raises `ClusterError` where the file is no result.
    """
    if not result.is_file():
        return {}
    try:
        written = json.loads(result.read_text(encoding="utf-8"))["courses"]
        found = {Course(each["method"], each["order"], each["seed"]): each for each in written}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ClusterError(f"{result}: expected this benchmark's result, got {error!r}; give another --out") from None
    return {
        course: found[course]
        for course in plan.courses()
        if course in found and found[course].get("facts") == digest_of(plan, course)
    }


def written(result: Mapping[str, Any]) -> str:
    """A result's file: JSON with a line for each course and each other part, figures to six digits."""
    parts = {key: json.dumps(_short(part)) for key, part in result.items()}
    parts["courses"] = "[\n" + ",\n".join(json.dumps(_short(course)) for course in result["courses"]) + "\n]"
    return "{\n" + ",\n".join(f"{json.dumps(key)}: {part}" for key, part in parts.items()) + "\n}\n"


def _short(value: Any) -> Any:
    if isinstance(value, float):
        return float(f"{value:.6g}")
    if isinstance(value, Mapping):
        return {key: _short(each) for key, each in value.items()}
    return [_short(each) for each in value] if isinstance(value, list | tuple) else value
