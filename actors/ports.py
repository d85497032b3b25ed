"""What the coordinator needs of its peers; they meet these by their methods alone, near or far."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

from actors.change import Change
from actors.directory import PublicationReport
from actors.observation import Watermarks
from actors.report import IngestReport
from actors.spool import Seal
from learning.contract import Example, Progress, TrainingResult
from registry.manifest import Manifest


class IngestPort(Protocol):
    """What the coordinator needs of an ingest worker."""

    def report(self) -> IngestReport: ...

    def seal(self, domain: str, version: int, watermarks: Watermarks) -> Seal: ...

    def sealed(self, domain: str, version: int) -> Seal: ...

    def examples(self, domain: str, version: int) -> tuple[list[Example], list[Example]]: ...

    def release(self, domain: str, version: int, watermarks: Watermarks) -> int: ...

    def reopen(self, domain: str, version: int) -> None: ...

    def forget(self, domain: str, watermarks: Watermarks | None = None) -> int: ...

    def drop_markers(self, domain: str) -> None: ...


class RouterPort(Protocol):
    """What the coordinator needs of the router."""

    def watermarks(self) -> Watermarks: ...

    def published_watermarks(self) -> Watermarks: ...

    def publish(self, change: Change, required: Watermarks) -> Manifest: ...

    def counts(self) -> dict[str, int]: ...

    def examples(self) -> dict[str, int]: ...


class LearnerPort(Protocol):
    """What the coordinator needs of a learner worker; `train` blocks."""

    def train(
        self,
        domain: str,
        version: int,
        train: Sequence[Example],
        held_out: Sequence[Example],
        initial_adapter: Path | None,
        seed: int,
    ) -> TrainingResult: ...

    def progress(self) -> Progress | None: ...


class DirectoryPort(Protocol):
    """What the coordinator needs of the replica directory; `publish` blocks."""

    def publish(self, number: int) -> PublicationReport: ...

    def replicas(self) -> dict[str, dict[str, object]]: ...
