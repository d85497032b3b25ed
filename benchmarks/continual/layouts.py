"""Rows of a folder of tasks, in the layouts that continual benchmarks are published in. Knows no model and no template.

- `rows`: `<task>/{train,test}.jsonl` of {"input", "output"} or {"prompt", "completion"};
- `stream`: the same rows in `<task>.{train,test}.jsonl`, as examples/stream has them;
- `trace`: `<Task>/{train,eval,test}.json`, lists of {"prompt", "answer"} (TRACE, arXiv 2310.06762, repository
  BeyonderXX/TRACE). A prompt holds its task's instruction already;
- `olora`: `<type>/<dataset>/{train,test}.json`, lists of {"sentence", "label"}, and `labels.json` (O-LoRA, arXiv
  2310.14152, repository cmnfriend/O-LoRA, folder CL_Benchmark). The prompt is made here as its loader does it. Its
  shipped flags put "Task:<type>" and "Dataset:<name>" before it, which tell every router the task: only by request.
"""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cluster.errors import ClusterError

INSTRUCTIONS = {
    "NLI": 'What is the logical relationship between the "sentence 1" and the "sentence 2"?',
    "QQP": 'Whether the "first sentence" and the "second sentence" have the same meaning?',
    "SC": "What is the sentiment of the following paragraph?",
    "TC": "What is the topic of the following paragraph?",
    "BoolQA": "According to the following passage, is the question true or false?",
    "MultiRC": "According to the following passage and question, is the candidate answer true or false?",
    "WiC": "Given a word and two sentences, whether the word is used with the same sense in both sentence?",
}
"""O-LoRA's instruction by type of task; COPA has none, as its sentences ask by themselves."""
TRACE_METRICS = {
    "MeetingBank": "rouge_l",
    "Py150": "edit_similarity",
    "ScienceQA": "first_character",
    "20Minuten": "sari",
}
"""TRACE's metric by task; exact match for the others."""


@dataclass(frozen=True)
class PlainRow:
    """One labelled row, its prompt as a user would type it."""

    id: str
    prompt: str
    completion: str


@dataclass(frozen=True)
class TaskFiles:
    """Where a task's rows are, and how they are read."""

    name: str
    metric: str
    train: Path
    test: Path
    read: Callable[[Path, str], list[PlainRow]]
    """From a file, with the beginning of its rows' ids where they have none."""


def find_tasks(folder: Path, *, prefixed: bool = False) -> dict[str, TaskFiles]:
    """The tasks of a folder by name, in whichever layout it is; `prefixed` puts O-LoRA's prefix before its prompts.

    Raises `ClusterError` where there are none.
    """
    for found in (_rows(folder), _stream(folder), _trace(folder), _olora(folder, prefixed)):
        if tasks := {each.name: each for each in found}:
            return tasks
    raise ClusterError(
        f"{folder}: expected tasks as <task>/train.jsonl, <task>.train.jsonl, <Task>/train.json (TRACE) or "
        "<type>/<dataset>/train.json (O-LoRA), got none of these; give another --data"
    )


def _rows(folder: Path) -> Iterator[TaskFiles]:
    for train in sorted(folder.glob("*/train.jsonl")):
        yield TaskFiles(train.parent.name, "exact", train, train.with_name("test.jsonl"), _json_lines)


def _stream(folder: Path) -> Iterator[TaskFiles]:
    for train in sorted(folder.glob("*.train.jsonl")):
        name = train.name.removesuffix(".train.jsonl")
        yield TaskFiles(name, "exact", train, train.with_name(f"{name}.test.jsonl"), _json_lines)


def _trace(folder: Path) -> Iterator[TaskFiles]:
    for train in sorted(folder.glob("*/train.json")):
        name = train.parent.name
        yield TaskFiles(name, TRACE_METRICS.get(name, "exact"), train, train.with_name("test.json"), _trace_rows)


def _olora(folder: Path, prefixed: bool) -> Iterator[TaskFiles]:
    for train in sorted(folder.glob("*/*/train.json")):
        kind, name = train.parts[-3:-1]
        read = _olora_reader(kind, name, prefixed)
        yield TaskFiles(name, "exact", train, train.with_name("test.json"), read)


def _json_lines(path: Path, start: str) -> list[PlainRow]:
    rows = []
    # Not `splitlines`: texts hold line separators of their own, which JSON need not escape.
    for number, line in enumerate(io.StringIO(_text(path)), start=1):
        where = f"{path}, line {number}"
        try:
            row = json.loads(line)
        except ValueError as error:
            raise ClusterError(
                f"{where}: expected a JSON object, got {line.rstrip()[:60]!r} ({error}); mend the file"
            ) from None
        prompt, completion = ("input", "output") if "input" in row else ("prompt", "completion")
        made = _field(row, prompt, where), _field(row, completion, where)
        rows.append(PlainRow(str(row.get("id") or f"{start}-{number}"), *made))
    return rows


def _trace_rows(path: Path, start: str) -> list[PlainRow]:
    return [
        PlainRow(f"{start}-{number}", _field(row, "prompt", where), _field(row, "answer", where))
        for number, row, where in _listed(path)
    ]


def _olora_reader(kind: str, name: str, prefixed: bool) -> Callable[[Path, str], list[PlainRow]]:
    def read(path: Path, start: str) -> list[PlainRow]:
        labels = json.loads(_text(path.with_name("labels.json")))
        if not isinstance(labels, list | dict):
            raise ClusterError(
                f"{path.with_name('labels.json')}: expected a list of labels, got {type(labels).__name__}"
            )
        asks = ""
        if kind in INSTRUCTIONS:
            asks = f"{INSTRUCTIONS[kind]} Choose one from the option.\nOption: {', '.join(map(str, labels))} \n"
        elif kind != "COPA":
            raise ClusterError(f"{path}: expected a type among {[*INSTRUCTIONS, 'COPA']}, got {kind!r}")
        lead = f"Task:{kind}\nDataset:{name}\n" if prefixed else ""
        return [
            PlainRow(
                f"{start}-{number}",
                f"{lead}{asks}{_field(row, 'sentence', where)}\nAnswer:",
                _field(row, "label", where),
            )
            for number, row, where in _listed(path)
        ]

    return read


def _listed(path: Path) -> Iterator[tuple[int, Any, str]]:
    try:
        rows: Sequence[Any] = json.loads(_text(path))
    except ValueError as error:
        raise ClusterError(f"{path}: expected a JSON list, got {error}; mend the file") from None
    if not isinstance(rows, list):
        raise ClusterError(f"{path}: expected a JSON list of rows, got {type(rows).__name__}")
    for number, row in enumerate(rows, start=1):
        yield number, row, f"{path}, row {number}"


def _field(row: Any, key: str, where: str) -> str:
    value = row.get(key) if isinstance(row, dict) else None
    if not isinstance(value, str):
        raise ClusterError(f"{where}: expected text under {key!r}, got {row!r:.80}; mend the file or its layout")
    return value


def _text(path: Path) -> str:
    if not path.is_file():
        raise ClusterError(f"expected {path}, got nothing there; give another --data")
    return path.read_text(encoding="utf-8")
