"""What each actor needs of its peers; they meet these by their methods alone, near or far.

A port is named for what its user has from it. That an actor meets its ports is stated for the type checker at the end
of the actor's module.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Protocol

from actors.change import Change
from actors.directive import Directive, PublicationReport, Standing
from actors.observation import (
    Background,
    Fate,
    Int64,
    LedgerView,
    Loss,
    Observation,
    OpenDomain,
    Receipt,
    RowKey,
    Seal,
    Watermarks,
)
from actors.report import IngestReport, Survey
from actors.routed_share import Share
from actors.training import Trained, TrainingOrder
from learning.contract import Example, Progress
from registry.manifest import Manifest
from serving.api import ReplicaStatus
from streaming.source import TopicPartition


class ExamplesPort(Protocol):
    """Ingest to a learner: the examples of a domain below `until` that the router has counted, from one spool."""

    def examples(self, domain: str, until: Watermarks) -> tuple[list[Example], list[Example]]: ...


class SpoolPort(Protocol):
    """Ingest to the coordinator: where it stands, and what it has of each partition."""

    def report(self) -> IngestReport: ...

    def survey(self, stretches: Mapping[TopicPartition, tuple[int, int]]) -> dict[TopicPartition, Survey]: ...

    def give_up(self, partition: TopicPartition, first: int, end: int) -> None: ...


class SumsPort(Protocol):
    """The router to ingest: what was counted, what becomes of rows, and counting more."""

    def view(self, known: int = -1) -> LedgerView: ...

    def fates(self, rows: Sequence[RowKey]) -> tuple[Fate, ...]: ...

    def take_background(self, background: Background) -> None: ...

    def observe(self, observation: Observation) -> Receipt: ...


class ManifestPort(Protocol):
    """The router to the coordinator: the ledger in counts, sealing what is to be trained, and the next manifest."""

    def observed(self) -> Watermarks: ...

    def open(self) -> dict[str, OpenDomain]: ...

    def unread(self) -> tuple[Loss, ...]: ...

    def seal(self, domain: str, version: int, until: Watermarks) -> Seal: ...

    def renumber(self, domain: str, version: int, other: int) -> Seal | None: ...

    def reopen(self, domain: str, version: int) -> None: ...

    def drop_markers(self, domain: str, markers: Watermarks) -> None: ...

    def open_offsets(self) -> dict[TopicPartition, Int64]: ...

    def lose(self, offsets: Mapping[TopicPartition, Collection[int]], unlearned: Collection[str]) -> None: ...

    def skip(self, partition: TopicPartition, first: int, end: int) -> None: ...

    def give_up(self, domain: str, until: Watermarks) -> None: ...

    def versions(self, domain: str) -> frozenset[int]: ...

    def is_outdated(self) -> bool: ...

    def publish(self, change: Change) -> Manifest: ...

    def tidy(self) -> None: ...

    def counts(self) -> dict[str, int]: ...

    def segment_counts(self) -> dict[str, int]: ...

    def prequential(self) -> dict[str, Share]: ...

    def trouble(self) -> str | None: ...

    def examples(self) -> dict[str, int]: ...


class LearnerPort(Protocol):
    """A learner to the coordinator; `train` blocks."""

    def train(self, order: TrainingOrder) -> Trained: ...

    def progress(self) -> Progress | None: ...


class ReplicasPort(Protocol):
    """The directory to the coordinator: all replicas as one; `publish` blocks, `in_force` is what they are led to."""

    def in_force(self) -> int: ...

    def publish(self, number: int, one_by_one: bool = False) -> PublicationReport: ...

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

    @property
    def used(self) -> tuple[str, ...]: ...

    def health(self) -> object: ...

    async def prepare(self, number: int) -> None: ...

    async def commit(self, number: int) -> None: ...

    async def catch_up(self) -> None: ...

    def fence(self, reason: str) -> None: ...

    def unfence(self) -> None: ...

    async def stop(self) -> None: ...
