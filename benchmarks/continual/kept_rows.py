"""The rows of earlier domains that a method keeps, and what it trains on with them.

Of each domain a share of its rows, chosen by the seed; or all, for a joint training. Kept as texts, in `rows.jsonl`,
and encoded once. Training rows that ask what a held-out one asks are left out, as the service's learners leave them.
Does not know what is trained.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from benchmarks.continual.method import Task
from learning.completion_loss import EncodedExample, encode
from learning.contract import Example
from learning.repeats import spread, without_repeats
from learning.template import PromptTemplate

ROWS = "rows.jsonl"


@dataclass(frozen=True)
class EncodedRows:
    """What a training sees."""

    train: list[EncodedExample]
    watched: list[EncodedExample]


class KeptRows:
    """Keeps `share` of each domain's training rows, one at least where it is above 0; with `joint` all rows, those held
    out too."""

    def __init__(
        self, template: PromptTemplate, max_tokens: int, watched: int, share: float, joint: bool, seed: int
    ) -> None:
        self._template = template
        self._max_tokens = max_tokens
        self._watched = watched
        self._share = 1.0 if joint else share
        self._joint = joint
        self._seed = seed
        self._train: list[list[Example]] = []
        self._held_out: list[list[Example]] = []
        self._encoded = EncodedRows([], [])

    def beside(self, task: Task) -> EncodedRows:
        """The task's rows encoded, after those kept."""
        train, _ = without_repeats(task.train, task.held_out)
        held_out = [*self._encoded.watched, *self._encode(task.held_out)]
        return EncodedRows([*self._encoded.train, *self._encode(train)], spread(held_out, self._watched))

    def keep(self, task: Task) -> None:
        """Takes from the task what later trainings see of it."""
        train, _ = without_repeats(task.train, task.held_out)
        count = min(len(train), math.ceil(self._share * len(train)))
        chance = np.random.default_rng([self._seed, len(self._train)])
        places = sorted(chance.choice(len(train), count, replace=False)) if count < len(train) else range(len(train))
        self._add([train[place] for place in places], list(task.held_out) if self._joint else [])

    def stored_bytes(self) -> int:
        """Of the texts, as they are written."""
        return len(self._written())

    @property
    def encoded(self) -> int:
        """How many of the rows that a training sees are kept ones; they come first."""
        return len(self._encoded.train)

    @property
    def counts(self) -> list[int]:
        """Training rows kept of each domain."""
        return [len(rows) for rows in self._train]

    def save(self, folder: Path) -> None:
        """Writes the rows into a folder."""
        (folder / ROWS).write_bytes(self._written())

    def load(self, folder: Path) -> None:
        """Takes up what `save` wrote."""
        for line in (folder / ROWS).read_text(encoding="utf-8").split("\n")[:-1]:
            found = json.loads(line)
            self._add([Example(**row) for row in found["train"]], [Example(**row) for row in found["held_out"]])

    def _add(self, train: list[Example], held_out: list[Example]) -> None:
        self._train.append(train)
        self._held_out.append(held_out)
        self._encoded.train.extend(self._encode(train))
        self._encoded.watched.extend(self._encode(held_out))

    def _encode(self, rows: Sequence[Example]) -> list[EncodedExample]:
        return encode(rows, self._template, self._max_tokens)

    def _written(self) -> bytes:
        lines = [
            json.dumps({"train": [asdict(row) for row in train], "held_out": [asdict(row) for row in held_out]})
            for train, held_out in zip(self._train, self._held_out, strict=True)
            if self._share
        ]
        return "".join(f"{line}\n" for line in lines).encode()
