"""What is exchanged with a learner worker: the order, and what came of it. No examples: those the learner fetches."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from actors.observation import Seal
from learning.contract import TrainingResult


@dataclass(frozen=True)
class TrainingOrder:
    """Train the version of `domain` that the ledger has sealed."""

    domain: str
    seal: Seal
    """The version's number, where its rows end, and how many there are: all of them must be there to train it."""
    continues: Path | None
    """Folder of the adapter to go on from and to be measured against; None starts from the frozen base."""
    seed: int


@dataclass(frozen=True)
class Trained:
    """The method's result, and how many distinct examples it was given to train on."""

    result: TrainingResult
    train_examples: int
