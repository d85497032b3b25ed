"""The texts of the routing study: domains, messages that belong to none, general questions. Knows no model.

clinc150's ten domains come without instructions; the olora14 tasks named here share theirs, so that only the text tells
them apart. Rows are named by their place in a set, so that features of a set are made once.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from learning import calibration, general

ROOT = Path(__file__).parents[1]
DATA = ROOT.parent / "shared" / "data"
QUESTIONS = ROOT / "examples" / "general_questions.jsonl"

SHARING = ("CB", "MNLI", "RTE", "IMDB", "SST-2", "amazon", "yelp", "agnews", "dbpedia")
"""Tasks of olora14 whose first line another one has as well."""

Places = NDArray[np.int64]


@dataclass(frozen=True)
class Corpus:
    """Domains' rows in one list: of each domain in turn those to learn from, then those to be judged on."""

    name: str
    domains: tuple[str, ...]
    train: tuple[int, ...]
    """Rows of each domain to learn from."""
    test: tuple[int, ...]
    texts: tuple[str, ...]


@dataclass(frozen=True)
class Split:
    """Places in a corpus; labels are domains' names."""

    fit: Places
    fit_labels: tuple[str, ...]
    held: Places
    held_labels: tuple[str, ...]
    test: Places
    test_labels: tuple[str, ...]


def corpus(folder: str, domains: Sequence[str] = (), train: int | None = None, test: int | None = None) -> Corpus:
    """A folder of `DATA`: `domains`, or all of it, at most so many rows of each."""
    names = tuple(domains or sorted(path.name for path in (DATA / folder).iterdir()))
    learnt = [_inputs(DATA / folder / name / "train.jsonl", train) for name in names]
    judged = [_inputs(DATA / folder / name / "test.jsonl", test) for name in names]
    texts = tuple(text for pair in zip(learnt, judged, strict=True) for part in pair for text in part)
    size = "" if train is None else f"-{train}"
    return Corpus(f"{folder}{size}", names, tuple(map(len, learnt)), tuple(map(len, judged)), texts)


def outside() -> tuple[str, ...]:
    """clinc150's messages that belong to none of its domains."""
    return tuple(_inputs(DATA / "clinc150_oos" / "test.jsonl", None))


def questions() -> tuple[str, ...]:
    """The two hundred general questions."""
    return tuple(json.loads(line)["prompt"] for line in QUESTIONS.read_bytes().splitlines())


def question_kinds() -> tuple[str, ...]:
    """Of each general question, what it is: a fact, arithmetic, small talk."""
    return tuple(json.loads(line)["kind"] for line in QUESTIONS.read_bytes().splitlines())


def fixed() -> dict[str, tuple[str, ...]]:
    """The sets of texts that are no domain's, by name."""
    return {
        "calibration": calibration.prompts(),
        "general": general.prompts(),
        "outside": outside(),
        "questions": questions(),
    }


def split(of: Corpus, seed: int, domains: Sequence[str] = (), held: float = 0.1, *, mixed: bool = False) -> Split:
    """`held` of the rows to learn from held out, at random by `seed`, of `domains` or all.

    `mixed` throws both kinds of rows of a domain together first, so that the judged ones are like those learnt from.
    """
    chance = np.random.default_rng(seed)
    wanted = set(domains or of.domains)
    parts: dict[str, list[Places]] = {"fit": [], "held": [], "test": []}
    first = 0
    for name, learnt, judged in zip(of.domains, of.train, of.test, strict=True):
        places = np.arange(first, first + learnt + judged)
        first += learnt + judged
        order = chance.permutation(learnt + judged) if mixed else chance.permutation(learnt)
        rows = places[order] if mixed else np.concatenate([places[:learnt][order], places[learnt:]])
        out = round(learnt * held)
        if name in wanted:
            parts["held"].append(rows[:out])
            parts["fit"].append(rows[out:learnt])
            parts["test"].append(rows[learnt:])
    kept = [name for name in of.domains if name in wanted]
    joined = {key: np.concatenate(value) for key, value in parts.items()}
    labels = {
        key: tuple(name for name, rows in zip(kept, value, strict=True) for _ in rows) for key, value in parts.items()
    }
    return Split(joined["fit"], labels["fit"], joined["held"], labels["held"], joined["test"], labels["test"])


def length_matched(inside: Sequence[str], outer: Sequence[str], seed: int = 0) -> tuple[Places, Places]:
    """Places of equally many texts of each number of words on both sides, as many as there are, at random by `seed`."""
    chance = np.random.default_rng(seed)
    words = [np.array([len(text.split()) for text in side]) for side in (inside, outer)]
    chosen: tuple[list[Places], list[Places]] = ([], [])
    for length in np.intersect1d(words[0], words[1]):
        places = [np.flatnonzero(side == length) for side in words]
        count = min(map(len, places))
        for into, where in zip(chosen, places, strict=True):
            into.append(np.sort(chance.permutation(where)[:count]))
    empty = np.empty(0, dtype=np.int64)
    return np.concatenate([empty, *chosen[0]]), np.concatenate([empty, *chosen[1]])


def _inputs(path: Path, limit: int | None) -> list[str]:
    lines = path.read_text(encoding="utf-8").strip("\n").split("\n")[:limit]
    return [json.loads(line)["input"] for line in lines]
