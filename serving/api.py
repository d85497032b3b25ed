"""The bodies of Anabranch's own HTTP paths, beside OpenAI's: frozen, typed, and the same for who answers and who asks.

A reader takes these from an older or newer service too: what it does not know it passes over, what is missing has a
default where there is one. Knows no HTTP framework and nothing of how the figures come about.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from registry.manifest import BaseRevision

DomainState = Literal["open", "closed", "learning", "publishing", "published", "rejected", "failed"]


class Body(BaseModel):
    """What all bodies share."""

    model_config = ConfigDict(frozen=True, extra="ignore", use_attribute_docstrings=True, ser_json_inf_nan="null")


# -- routing and ingest -----------------------------------------------------------------------------------------------


class RouteDecision(Body):
    """Which domain one text belongs to."""

    index: int
    """Place of the text in the request."""
    domain: str
    """The domain, or `base`."""
    adapter: str
    """Full name of the version in service, or `base`."""
    score: float | None
    """The top score; None before anything is published."""
    scores: dict[str, float] = Field(default_factory=dict)
    """Score of every published domain."""


class RouteResult(Body):
    """`POST /v1/route`."""

    manifest: int
    """Number of the manifest that decided; 0 before the first."""
    decisions: tuple[RouteDecision, ...]


class RecordsResult(Body):
    """`POST /v1/records`: what is durable in the stream now."""

    ids: tuple[str, ...]
    """One for each record in order: its id, of a marker its domain."""


# -- domains ----------------------------------------------------------------------------------------------------------


class CommandResult(Body):
    """The commands on a domain: the manifest then in force."""

    domain: str
    manifest: int
    reason: str


class VersionStatus(Body):
    """One adapter of a domain, whether it serves or not."""

    name: str
    """Full name, `domain@vN-digest8`."""
    status: Literal["accepted", "rejected"]
    reason: str
    """The gate's words."""
    examples: int
    """Examples it was trained on."""
    figures: dict[str, float | None] = Field(default_factory=dict)
    """Losses (nats a token), exact matches (0 to 1), durations (seconds) by name; None where one is no number."""


class Waiting(Body):
    """Examples of a domain that no published version was trained on."""

    train: int = 0
    held_out: int = 0
    sealed: tuple[int, ...] = ()
    """Versions that are being made of some of them."""


class TrainingProgress(Body):
    """How far a training is."""

    step: int
    steps: int
    loss: float | None
    """Of the last step, in nats a token."""


class DomainStatus(Body):
    """One domain."""

    domain: str
    state: DomainState
    detail: str = ""
    """Why it is in this state, in one line."""
    version: str | None
    """Full name of the version in service."""
    pinned: bool = False
    examples: int
    """Distinct examples known, held-out ones included."""
    router_rows: int
    """Rows in the router's sums."""
    waiting: Waiting
    progress: TrainingProgress | None = None
    timings: dict[str, float] = Field(default_factory=dict)
    """Seconds of the last learning and publication by name."""
    versions: tuple[VersionStatus, ...] = ()


class DomainList(Body):
    """`GET /v1/domains`."""

    domains: tuple[DomainStatus, ...]


# -- the whole --------------------------------------------------------------------------------------------------------


class IngestStatus(Body):
    """One ingest worker; counters since it started."""

    name: str
    partitions: tuple[str, ...]
    """`topic[partition]`, of the whole topic."""
    spooled: int
    """Examples on disk."""
    full: bool
    """Whether it has paused its partitions for want of room."""
    polled: int
    dead_letters: int
    duplicates: int
    trouble: dict[str, str] = Field(default_factory=dict)
    """The last error of each loop that is failing now."""


class ReplicaStatus(Body):
    """One replica, as the directory knows it."""

    manifest: int
    """The manifest it serves."""
    fenced: str | None = None
    """Why it takes no requests."""


class ReplicaHealth(Body):
    """The replica that answers, as it knows itself; also `GET /healthz` and `GET /readyz`."""

    ready: bool
    fenced: str | None
    engine_failure: str | None
    unload_failure: str | None
    manifest: int
    prepared: tuple[int, ...]
    loaded: tuple[str, ...]
    """Full names of the versions in the engine."""
    leases: int
    """Holds of requests in flight."""
    trouble: str | None = None
    """Why it lags behind or is cut off, while it serves on."""


class SystemStatus(Body):
    """`GET /v1/status`."""

    manifest: int
    """Number of the manifest in force; 0 before the first."""
    base: BaseRevision
    domains: tuple[DomainStatus, ...]
    ingest: tuple[IngestStatus, ...]
    replicas: dict[str, ReplicaStatus]
    trouble: str | None = None
    """What keeps the coordinator from going on."""
    replica: ReplicaHealth | None = None
    """The replica that answered; None where the status was asked of the coordinator."""

    def troubles(self) -> Iterator[tuple[str, str]]:
        """Everything that is failing now, as (who, what): the coordinator, ingest loops, domains, replicas."""
        if self.trouble:
            yield "coordinator", self.trouble
        for worker in self.ingest:
            yield from ((f"{worker.name} {loop}", what) for loop, what in worker.trouble.items())
        yield from ((d.domain, d.detail or d.state) for d in self.domains if d.state == "failed")
        yield from ((name, replica.fenced) for name, replica in self.replicas.items() if replica.fenced)
        if self.replica is not None:
            for what in (self.replica.engine_failure, self.replica.unload_failure, self.replica.trouble):
                if what:
                    yield "this replica", what
