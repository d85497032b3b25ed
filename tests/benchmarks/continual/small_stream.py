"""Three little tasks that a tiny random base can learn something of, and a plan for them."""

import json
from pathlib import Path
from typing import Any

from benchmarks.continual.cells import CellStore
from benchmarks.continual.plan import ContinualPlan
from benchmarks.continual.tasks import Limits
from tests.learning.bases import TEMPLATE

ANSWERS = {
    "heat": {"red": "warm", "orange": "warm", "blue": "cold", "green": "cold"},
    "place": {"red": "dock", "orange": "dock", "blue": "yard", "green": "yard"},
    "size": {"red": "big", "orange": "small", "blue": "big", "green": "small"},
}
TRAINING: dict[str, Any] = {
    "frozen_layers": 2,
    "learning_rate": 2e-2,
    "batch_size": 8,
    "max_steps": 40,
    "max_epochs": 50.0,
    "evaluate_every": 20,
    "max_tokens": 64,
    "threads": 1,
}
METHODS: dict[str, dict[str, Any]] = {
    "lora": {"kind": "lora", "rank": 4, "alpha": 8.0},
    "seta": {"kind": "seta", "rank": 4, "shared_rank": 2, "alpha": 8.0, "anchor": 0.1},
}
ROUTERS: dict[str, dict[str, Any]] = {
    "analytic": {"kind": "analytic", "ridge": 1.0},
    "linear": {"kind": "linear", "epochs": 2},
}


def write_stream(folder: Path, train: int = 40, test: int = 8) -> Path:
    """The tasks as `<task>/{train,test}.jsonl`."""
    for task, words in ANSWERS.items():
        names = list(words)
        for split, start, count in (("train", 0, train), ("test", 1000, test)):
            path = folder / task / f"{split}.jsonl"
            path.parent.mkdir(parents=True, exist_ok=True)
            rows = [
                {"task": task, "input": f"{task} {number} {names[number % 4]}", "output": words[names[number % 4]]}
                for number in range(start, start + count)
            ]
            path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


def plan(base: Path, data: Path, work: Path, **changes: Any) -> ContinualPlan:
    """One order and one seed of all tasks, with other values where given."""
    chosen: dict[str, Any] = {
        "base": str(base),
        "data": data,
        "work": work,
        "orders": (tuple(ANSWERS),),
        "seeds": (0,),
        "prompt": {"chat_template": TEMPLATE, "terminator": "\n"},
        "training": TRAINING,
        "features": {"layers": [0, 2], "expansion": 64, "max_tokens": 64},
        "methods": {"lora": METHODS["lora"]},
        "routers": ROUTERS,
        "limits": Limits(held_out=0.2),
    }
    return ContinualPlan(**{**chosen, **changes})


def cells(of: ContinualPlan, label: str) -> list[dict[str, Any]]:
    """Those of the one course of a method."""
    (course,) = [each for each in of.courses() if each.label == label]
    return CellStore(of.work, course, of.facts(course)).cells()


def measured(cell: dict[str, Any]) -> dict[str, Any]:
    """What does not depend on the machine."""
    learned = {key: value for key, value in cell["learned"].items() if key != "seconds"}
    machine = ("seconds", "measuring_seconds", "resident_bytes", "peak_bytes")
    return {**{key: value for key, value in cell.items() if key not in machine}, "learned": learned}
