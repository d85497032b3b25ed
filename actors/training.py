"""What is exchanged with a learner worker: the order, and what came of it. No examples: those the learner fetches."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from actors.observation import Seal
from learning.contract import TrainingResult


@dataclass(frozen=True)
class Segment:
    """A segment of a domain that is in service, or waits to be."""

    domain: str
    number: int
    name: str
    """Full name of its version."""
    folder: Path
    """That version's, with its exam."""
    exam_digest: str = ""
    """sha256 of the exam's file in it; empty where it has none."""
    has_adapter: bool = True
    """Whether there is an adapter in it; else the base answers for the segment."""


@dataclass(frozen=True)
class TrainingOrder:
    """Train the version of `domain` that the ledger has sealed."""

    domain: str
    seal: Seal
    """The version's number, where its rows end, and how many there are: all of them must be there to train it."""
    segments: tuple[Segment, ...]
    """What to go on from and to be measured against, of its domain and, where the method may touch them, of others;
    with none of its domain the training starts from the frozen base."""
    seed: int
    manifest: int | None = None
    """Number of the manifest in force, 0 before the first; None where the method has several lanes."""
    state: Path | None = None
    """Folder of the state that its method's last training left; None where there is none, or it is damaged."""
    trouble: str = ""
    """What of all this is damaged and left out; empty where nothing is."""
    left_out: tuple[str, ...] = ()
    """The other domains whose segments are, as they can't be read."""
    base_delta: Path | None = None
    """Folder of the change of the base's weights that the segments were judged on."""

    offered: Path | None = None
    """Folder of an adapter made elsewhere that is to be judged, in the place of a training; None to train."""
    note: str = ""
    """Words of whoever offered it."""

    def of_domain(self) -> tuple[Segment, ...]:
        """The segments of its own domain."""
        return tuple(each for each in self.segments if each.domain == self.domain)


@dataclass(frozen=True)
class Trained:
    """The method's result, how many distinct examples it was given to train on, and the exams it may go on with."""

    result: TrainingResult
    train_examples: int
    exam: bytes = b""
    """Of a segment of its own: what was held out of these examples."""
    continued_exam: bytes = b""
    """Of the segment that it continues: the same, and what that one's exam held, within the bounds."""
    other_exams: Mapping[tuple[str, int], bytes] = field(default_factory=dict)
    """Of each further segment that has a new adapter, by domain and number: what its exam held, within the bounds."""
    trouble: str = ""
    """Which exams could not be read, so that nothing was compared with them, and what went wrong with checkpoints."""
