"""What each actor needs of its peers; they meet these by their methods alone, near or far.

A port is named for what its user has from it. That an actor meets its ports is stated for the type checker at the end
of the actor's module.
"""

from __future__ import annotations

from typing import Protocol

from actors.change import Change
from actors.directive import Directive, PublicationReport, Standing
from actors.observation import Observation, Receipt, Watermarks
from actors.report import IngestReport
from actors.spool import Seal
from actors.training import Trained, TrainingOrder
from learning.contract import Example, Progress
from registry.manifest import Manifest
from serving.api import ReplicaStatus


class ExamplesPort(Protocol):
    """Ingest to a learner: the examples of a version."""

    def examples(self, domain: str, version: int) -> tuple[list[Example], list[Example]]: ...


class SpoolPort(Protocol):
    """Ingest to the coordinator: what waits, and its stages."""

    def report(self) -> IngestReport: ...

    def seal(self, domain: str, version: int, watermarks: Watermarks) -> Seal: ...

    def sealed(self, domain: str, version: int) -> Seal: ...

    def release(self, domain: str, version: int, watermarks: Watermarks) -> int: ...

    def reopen(self, domain: str, version: int) -> None: ...

    def forget(self, domain: str, watermarks: Watermarks | None = None) -> int: ...

    def drop_markers(self, domain: str, watermarks: Watermarks) -> None: ...


class SumsPort(Protocol):
    """The router to ingest: what was counted, and counting more."""

    def watermarks(self) -> Watermarks: ...

    def observe(self, observation: Observation) -> Receipt: ...


class ManifestPort(Protocol):
    """The router to the coordinator: what is known of each domain, and the next manifest."""

    def watermarks(self) -> Watermarks: ...

    def published_watermarks(self) -> Watermarks: ...

    def publish(self, change: Change, required: Watermarks) -> Manifest: ...

    def counts(self) -> dict[str, int]: ...

    def examples(self) -> dict[str, int]: ...


class LearnerPort(Protocol):
    """A learner to the coordinator; `train` blocks."""

    def train(self, order: TrainingOrder) -> Trained: ...

    def progress(self) -> Progress | None: ...


class ReplicasPort(Protocol):
    """The directory to the coordinator: all replicas as one; `publish` blocks."""

    def publish(self, number: int) -> PublicationReport: ...

    def replicas(self) -> dict[str, ReplicaStatus]: ...


class DirectivesPort(Protocol):
    """The directory to a replica: what to do next."""

    async def next_directive(self, replica: str, standing: Standing, wait_seconds: float) -> Directive: ...

    async def leave(self, replica: str) -> None: ...


class ServicePort(Protocol):
    """The service to the replica around it: the manifest it stands on, and whether it takes requests."""

    trouble: str | None
    """Why it lags or is cut off while it serves on; the replica writes it, the service shows it."""

    @property
    def manifest(self) -> Manifest | None: ...

    @property
    def fenced(self) -> str | None: ...

    @property
    def ready(self) -> bool: ...

    def health(self) -> object: ...

    async def prepare(self, number: int) -> None: ...

    async def commit(self, number: int) -> None: ...

    async def catch_up(self) -> None: ...

    def fence(self, reason: str) -> None: ...

    def unfence(self) -> None: ...

    async def stop(self) -> None: ...
