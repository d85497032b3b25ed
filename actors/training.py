"""What is exchanged with a learner worker: the order, and what came of it. No examples: those the learner fetches."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from actors.observation import Seal
from learning.contract import TrainingResult


@dataclass(frozen=True)
class Segment:
    """A segment of the domain that is in service, or waits to be."""

    number: int
    name: str
    """Full name of its version."""
    adapter: Path
    """That version's folder."""
    exam_digest: str = ""
    """sha256 of the exam's file in it; empty where it has none."""


@dataclass(frozen=True)
class TrainingOrder:
    """Train the version of `domain` that the ledger has sealed."""

    domain: str
    seal: Seal
    """The version's number, where its rows end, and how many there are: all of them must be there to train it."""
    segments: tuple[Segment, ...]
    """What to go on from and to be measured against; with none the training starts from the frozen base."""
    seed: int


@dataclass(frozen=True)
class Trained:
    """The method's result, how many distinct examples it was given to train on, and the exams it may go on with."""

    result: TrainingResult
    train_examples: int
    exam: bytes = b""
    """Of a segment of its own: what was held out of these examples."""
    continued_exam: bytes = b""
    """Of the segment that it continues: the same, and what that one's exam held, within the bounds."""
    trouble: str = ""
    """Which exams could not be read, so that nothing was compared with them; empty where all were."""
