"""The result of a run, made of its cells: matrices of every course, figures of every method with their spreads.

Knows no method and measures nothing.
"""

from __future__ import annotations

import json
import math
import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from benchmarks.continual.cells import CellStore, Course, told_apart
from benchmarks.continual.finished import digest_of
from benchmarks.continual.matrix import (
    average_accuracy,
    backward_transfer,
    changed,
    diagonal,
    forgetting,
    forward_transfer,
)
from benchmarks.continual.plan import ContinualPlan

Figures = dict[str, float]


def summarise(plan: ContinualPlan) -> dict[str, Any]:
    """Courses whose cells are all there, and what they come to; `unfinished` names the others."""
    courses, unfinished = [], []
    for course in plan.courses():
        if course in plan.known:
            courses.append(dict(plan.known[course]))
            continue
        store = CellStore(plan.work, course, plan.facts(course))
        cells = store.cells()
        if len(cells) == len(plan.orders[course.order]):
            served = store.served()
            whole = _course(course, plan.orders[course.order], cells) | {"facts": digest_of(plan, course)}
            courses.append({**whole, "served": served} if served else whole)
        else:
            unfinished.append(f"{course.label}, order {course.order}, seed {course.seed}")
    return {
        "orders": [list(order) for order in plan.orders],
        "seeds": list(plan.seeds),
        "rows": {"train": plan.limits.train, "test": plan.limits.test, "held_out_share": plan.limits.held_out},
        "judged_by": "held-out rows" if plan.held_out else "test rows",
        "bwt_divisor": "T-1 (bwt), T (bwt_t)",
        "methods": {label: _method(label, courses) for label in plan.methods if _of(label, courses)},
        "routers": {label: _router(plan, label) for label in plan.routers},
        "courses": courses,
        "unfinished": unfinished,
    }


def _of(label: str, courses: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    return [course for course in courses if course["method"] == label]


def _course(course: Course, order: Sequence[str], cells: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    before = cells[0]["before"]
    scores = [[cell["scores"][task] for task in order] for cell in cells]
    answers = [[told_apart(cell["answers"][task]) for task in order] for cell in cells]
    zero = [before["scores"][task] for task in order]
    routed = {label: _routed(order, cells, label) for label in cells[-1]["routed"] if _everywhere(label, cells)}
    return {
        "method": course.label,
        "order": course.order,
        "seed": course.seed,
        "figures": {
            **by_matrix(scores),
            "fwt": forward_transfer(scores, zero),
            "changed": changed(answers),
            "loss": statistics.fmean(cells[-1]["losses"][task] for task in order),
            "perplexity_change": math.expm1(cells[-1]["general_loss"] - before["general_loss"]),
            "weights_trained": max(cell["learned"]["weights_trained"] for cell in cells),
            "stored_bytes": cells[-1]["stored_bytes"],
            "seconds": sum(cell["seconds"] for cell in cells),
            "measuring_seconds": sum(cell["measuring_seconds"] for cell in cells),
            "peak_bytes": max(cell["peak_bytes"] for cell in cells),
        },
        "routed": {label: {"figures": by_matrix(matrix), "matrix": matrix} for label, matrix in routed.items()},
        "zero": zero,
        "matrix": scores,
        "losses": [[cell["losses"][task] for task in order] for cell in cells],
        "general_loss": [before["general_loss"], *(cell["general_loss"] for cell in cells)],
        "stored_bytes": [cell["stored_bytes"] for cell in cells],
        "steps": [cell["learned"]["steps"] for cell in cells],
        "train_loss": [cell["learned"]["train_loss"] for cell in cells],
        "failures": {cell["task"]: cell["learned"]["failure"] for cell in cells if cell["learned"]["failure"]},
    }


def by_matrix(matrix: Sequence[Sequence[float]]) -> Figures:
    """What a matrix says by itself."""
    return {
        "aa": average_accuracy(matrix),
        "diagonal": diagonal(matrix),
        "bwt": backward_transfer(matrix),
        "bwt_t": backward_transfer(matrix, "T"),
        "forgetting": forgetting(matrix),
    }


def _everywhere(label: str, cells: Sequence[Mapping[str, Any]]) -> bool:
    return all(label in cell["routed"] for cell in cells)


def _routed(order: Sequence[str], cells: Sequence[Mapping[str, Any]], label: str) -> list[list[float]]:
    """Rows as long as there are tasks learned."""
    return [[cell["routed"][label][task] for task in order[: at + 1]] for at, cell in enumerate(cells)]


def _method(label: str, courses: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    mine = _of(label, courses)
    routers = dict.fromkeys(name for course in mine for name in course["routed"])
    return {
        "runs": len(mine),
        "figures": spreads([course["figures"] for course in mine]),
        "routed": {
            name: spreads([course["routed"][name]["figures"] for course in mine if name in course["routed"]])
            for name in routers
        },
        "failures": sum(len(course["failures"]) for course in mine),
        "served": _served([course["served"] for course in mine if "served" in course]),
    }


def _served(runs: Sequence[Mapping[str, Any]]) -> dict[str, dict[str, float]]:
    """Of the courses that were served; nothing where none was."""
    if not runs:
        return {}
    figures: list[dict[str, float]] = []
    for run in runs:
        means = {key: statistics.fmean(run[key].values()) for key in ("by_name", "routed", "routed_right") if run[key]}
        counts = ("equal", "equal_routed", "requests", "failed", "deployments", "adapters", "base_changes")
        figures.append({**means, **{key: run[key] for key in counts}})
    return spreads(figures)


def spreads(runs: Sequence[Mapping[str, float]]) -> dict[str, dict[str, float]]:
    """Mean and standard deviation over runs of each figure; of one run the latter is 0."""
    return {
        key: {
            "mean": statistics.fmean(run[key] for run in runs),
            "sd": statistics.stdev([run[key] for run in runs]) if len(runs) > 1 else 0.0,
        }
        for key in runs[0]
    }


def _router(plan: ContinualPlan, label: str) -> dict[str, Any]:
    """Of all orders and seeds; the confusion is that of the first of both."""
    runs, confusions = [], []
    for order in range(len(plan.orders)):
        for seed in plan.seeds:
            path = plan.work / "routes" / f"{Course(label, order, seed).folder}.json"
            if path.is_file():
                there = json.loads(path.read_text(encoding="utf-8"))
                runs.append(routing_figures(there["decisions"]) | {"stored_bytes": there["stored_bytes"][-1]})
                runs[-1]["cpu_seconds"] = there["cpu_seconds"]
                confusions.append(confusion(there["decisions"][-1]))
    return {"runs": len(runs), "figures": spreads(runs), "confusion": confusions[0]} if runs else {"runs": 0}


def routing_figures(decisions: Sequence[Mapping[str, Sequence[str]]]) -> Figures:
    """Share of rows routed right: after the last task, the least after any, and BWT of the matrix by task."""
    matrix = [[sum(taken == task for taken in rows) / len(rows) for task, rows in at.items()] for at in decisions]
    overall = [
        sum(taken == task for task, rows in at.items() for taken in rows) / sum(map(len, at.values()))
        for at in decisions
    ]
    return {"accuracy": overall[-1], "lowest": min(overall), "bwt": backward_transfer(matrix)}


def confusion(decisions: Mapping[str, Sequence[str]]) -> dict[str, dict[str, int]]:
    """Of each task's rows, how many are taken for which."""
    return {task: {name: list(rows).count(name) for name in dict.fromkeys(rows)} for task, rows in decisions.items()}
