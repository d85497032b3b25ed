"""The bodies of Anabranch's own HTTP paths, beside OpenAI's: frozen, typed, and the same for who answers and who asks.

A reader takes these from an older or newer service too: what it does not know it passes over, what is missing has a
default where there is one. Knows no HTTP framework and nothing of how the figures come about.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from registry.manifest import BaseRevision
from serving.options import MOST_PARTS
from serving.wording import Words

DomainState = Literal["open", "closed", "learning", "publishing", "published", "rejected", "failed"]
ActorState = Literal["up", "starting", "lost"]


class Body(BaseModel):
    """What all bodies share."""

    model_config = ConfigDict(frozen=True, extra="ignore", use_attribute_docstrings=True, ser_json_inf_nan="null")


class ErrorDetail(Body):
    """What went wrong, in OpenAI's form."""

    message: str
    """One line for a person."""
    type: str
    """`BadRequestError`, `AuthenticationError`, `PermissionDeniedError`, `NotFoundError`, `RateLimitError`,
    `ServiceUnavailableError`, `InternalServerError` and others."""
    param: str | None = None
    """The field at fault, where it is one."""
    code: int
    """The HTTP status."""


class ErrorAnswer(Body):
    """Every error."""

    error: ErrorDetail
    """What went wrong."""


# -- routing and ingest -----------------------------------------------------------------------------------------------


class RouteRequest(Body):
    """Asks `POST /v1/route`: either of the two."""

    input: str | tuple[str, ...] | None = None
    """A text, or several to be routed each by itself."""
    messages: tuple[Any, ...] | None = None
    """A chat, as `/v1/chat/completions` takes it."""
    top_k: int | None = Field(default=None, ge=1, le=MOST_PARTS)
    """How many domains at most would answer as one; null takes what the service is set to."""


class TurnDecision(Body):
    """What one turn of a chat asks for by itself."""

    domain: str
    """The domain, or `base`."""
    score: float | None
    """That domain's score in it; the top score, where it is the base."""
    confidence: float | None = None
    """What is held against the router's threshold."""
    abstained: str | None = None
    """Why it would be left to the base, in words; null where it would not."""


class MixedPart(Body):
    """One of the adapters that answer as one."""

    domain: str
    """The domain."""
    adapter: str
    """Full name of the version."""
    weight: float
    """What its change of the base is multiplied by; together 1."""


class RouteDecision(Body):
    """Which domain one text, or one chat, belongs to."""

    index: int
    """Place of the text in the request."""
    domain: str
    """The domain, or `base`."""
    adapter: str
    """Full name of the version in service, or `base`."""
    score: float | None
    """The top score; null where nothing was scored: nothing is published, or a model was named that is no domain of
    several segments."""
    scores: dict[str, float] = Field(default_factory=dict)
    """Score of every published domain: that of its best segment."""
    confidence: float | None = None
    """What is held against the router's threshold; null where not all domains competed."""
    threshold: float | None = None
    """What `confidence` has to reach for a domain to answer; null where any will do."""
    abstained: str | None = None
    """Why the prompt was left to the base though no model was named, in words; null where it was not."""
    turns: tuple[TurnDecision, ...] = ()
    """Of a chat with several user messages, its first turn and its last; in a session, what it was answered by before
    and its last turn. Scores and confidence above are those of the turn that decided."""
    lead: float | None = None
    """By how much the last turn's own domain scores higher in it than the first's; null where they agree or one is left
    to the base."""
    parts: tuple[MixedPart, ...] = ()
    """The adapters, where several answer as one; domain and adapter above name all of them, joined by `+`."""
    nearest: bool = False
    """Whether their sum has a higher rank than the engine takes, so that the nearest of that rank answers."""


class RouteResult(Body):
    """`POST /v1/route`; without `scores` also the field `anabranch` of an answer to a completion or a chat."""

    manifest: int
    """Number of the manifest that decided; 0 before the first."""
    base: str = ""
    """Which change of the base's weights it is for, by sha256; empty for the model as it is."""
    decisions: tuple[RouteDecision, ...]
    """One for each text in order."""


class RecordsResult(Body):
    """`POST /v1/records`: what is durable in the stream now."""

    ids: tuple[str, ...]
    """One for each record in order: its id, of a marker its domain."""


# -- domains ----------------------------------------------------------------------------------------------------------


class VersionRequest(Body):
    """Asks for a rollback or a pin; the body may be left out."""

    version: str | None = None
    """Full name; without one, the accepted version before (rollback) or the present one (pin)."""


class AdapterRequest(Body):
    """Asks `POST /v1/domains/{domain}/adapters`."""

    offer: str
    """Name of the upload, as `anabranch adapters add` puts it where the registry lies."""
    note: str = ""
    """Words that are kept with the version."""


class CommandResult(Body):
    """The commands on a domain: the manifest then in force."""

    domain: str
    """The domain."""
    manifest: int
    """Its number."""
    reason: str
    """Why it was published; of `learn` and `adapters`, what is going to be."""


class VersionStatus(Body):
    """One adapter of a domain, whether it serves or not."""

    name: str
    """Full name, `domain@vN-digest8`."""
    status: Literal["accepted", "rejected"]
    """`accepted` or `rejected` by the gate."""
    reason: Words
    """The gate's words."""
    examples: int
    """Examples it was trained on."""
    segment: int = 1
    """The segment of the domain that it is an adapter of."""
    beside: tuple[str, ...] = ()
    """Full names of the versions that it serves beside: those of the domain's other segments."""
    figures: dict[str, float | None] = Field(default_factory=dict)
    """Losses (nats a token), exact matches (0 to 1), durations (seconds) by name; null where one is no number."""


class SegmentStatus(Body):
    """One segment of a domain: what one adapter and one column of the router answer for."""

    segment: int
    """Its number, from 1 on."""
    version: str
    """Full name of the version that answers for it."""
    examples: int
    """Examples in its exam."""
    router_rows: int
    """Rows in the router's sums of its column."""
    figures: dict[str, float | None] = Field(default_factory=dict)
    """The version's, by name: losses (nats a token), exact matches (0 to 1); null where one is no number."""


class Waiting(Body):
    """Examples of a domain that no published version was trained on."""

    train: int = 0
    """To train on."""
    held_out: int = 0
    """For its exam."""
    sealed: tuple[int, ...] = ()
    """Versions that are being made of some of them."""


class TrainingProgress(Body):
    """How far a training is."""

    step: int
    """Steps done."""
    steps: int
    """Steps there will be."""
    loss: float | None
    """Of the last step, in nats a token."""
    resumed_from: int = 0
    """The step after which a worker that died had left it; 0 where this one began it."""
    curve: tuple[tuple[int, float], ...] = ()
    """Steps so far with their losses, thinned to sixty at most."""


class Stretch(Body):
    """A stretch of a partition that can't be read any more."""

    partition: str
    """`topic[partition]`."""
    first: int
    """The first offset concerned."""
    last: int
    """The last offset concerned; not every offset in between need be."""
    rows: int
    """Examples in it that were counted and can't be trained on; 0 where nothing of it was ever read."""


class DomainStatus(Body):
    """One domain."""

    domain: str
    """Its name."""
    state: DomainState
    """`open`, `closed`, `learning`, `publishing`, `published`, `rejected` or `failed`."""
    detail: Words = ""
    """Why it is in this state, in one line."""
    version: str | None
    """Full name of the newest version in service."""
    segments: tuple[SegmentStatus, ...] = ()
    """What is in service, segment by segment."""
    pinned: bool = False
    """Whether that version stays, whatever is trained later."""
    examples: int
    """Distinct examples known, held-out ones included."""
    router_rows: int
    """Rows in the router's sums."""
    prequential: float | None = None
    """Share (0 to 1) of the last `prequential_rows` rows that the router in force would have routed right before it
    learned of them; null before it was published."""
    prequential_rows: int = 0
    """Rows that this is the share of."""
    routed_to: dict[str, float] = Field(default_factory=dict)
    """Of the same rows, the share (0 to 1) that would have gone to each domain: the eight largest."""
    waiting: Waiting
    """What no published version was trained on."""
    withdrawn: str | None = None
    """Full name of an accepted version that could not be loaded by any replica, and is tried again, or was learned
    under a pin and waits for its end."""
    lost: tuple[Stretch, ...] = ()
    """Examples that were counted, but can be read nowhere any more; sent again, they are trained on after all."""
    progress: TrainingProgress | None = None
    """Of the training under way."""
    timings: dict[str, float] = Field(default_factory=dict)
    """Seconds of the last learning and publication by name."""
    versions: tuple[VersionStatus, ...] = ()
    """Every adapter of the domain."""


class DomainList(Body):
    """`GET /v1/domains`."""

    domains: tuple[DomainStatus, ...]
    """All that are known, published or not."""


# -- the whole --------------------------------------------------------------------------------------------------------


class IngestStatus(Body):
    """One ingest worker; counters since it started."""

    name: str
    """Of the worker."""
    partitions: tuple[str, ...]
    """`topic[partition]`, of the whole topic."""
    spooled: int
    """Examples on disk."""
    spooled_bytes: int = 0
    """Their bytes."""
    full: bool
    """Whether it has paused its partitions for want of room."""
    polled: int
    """Records read."""
    dead_letters: int
    """Records put aside."""
    duplicates: int
    """Records that were known."""
    lag: dict[str, int] = Field(default_factory=dict)
    """Records still to be read of each partition that it reads, at most some seconds old."""
    trouble: dict[str, Words] = Field(default_factory=dict)
    """The last error of each loop that is failing now."""


class ReplicaStatus(Body):
    """One replica, as the directory knows it."""

    manifest: int
    """The manifest it serves."""
    fenced: Words | None = None
    """Why it takes no requests."""
    lag_seconds: float = 0.0
    """For how long it has stood behind the manifest in force; 0 where it does not."""
    since: float | None = None
    """When it was first heard of at this manifest, in Unix seconds."""


class ReplicaHealth(Body):
    """The replica that answers, as it knows itself; also `GET /healthz` and `GET /readyz`."""

    ready: bool
    """Whether it takes requests."""
    fenced: Words | None
    """Why it takes none."""
    engine_failure: Words | None
    """Why the engine can't answer any more."""
    unload_failure: Words | None
    """Why a version that nobody needs is still loaded."""
    manifest: int
    """The manifest it serves."""
    prepared: tuple[int, ...]
    """Manifests it could serve at once."""
    versions: tuple[str, ...]
    """Full names of the versions that it may be asked for."""
    loaded: tuple[str, ...]
    """Those in the engine; the others are loaded when they are asked for."""
    waiting: int
    """Requests that wait for their turn in the engine."""
    leases: int
    """Holds of requests in flight."""
    trouble: Words | None = None
    """Why it lags behind or is cut off, while it serves on."""


class ActorStatus(Body):
    """One actor, as whoever supervises them all heard of it last."""

    name: str
    """`router`, `ingest-0`, `learner-1`, ..."""
    node: str | None = None
    """The node it runs on, where that is known."""
    restarts: int = 0
    """How often it was started anew."""
    up_seconds: float | None = None
    """Since it was made; null where it is not up."""
    progress_seconds: float | None = None
    """Since something in it last worked; of one that is not up, since it was last heard of; null where nobody knows."""
    state: ActorState
    """`up`, `starting` while it is being made, or `lost` until it is started again."""
    trouble: Words | None = None
    """What it fails for now."""

    def in_words(self) -> str:
        """Say how it is being recovered."""
        words = "being started"
        if self.state == "lost":
            since = "" if self.progress_seconds is None else f" {self.progress_seconds:.0f} s ago"
            words = f"lost{since}, being started again"
        return f"{words}: {self.trouble}" if self.trouble else words


class SystemStatus(Body):
    """`GET /v1/status`."""

    manifest: int
    """Number of the manifest in force; 0 before the first."""
    base: BaseRevision
    """The base model that is served."""
    domains: tuple[DomainStatus, ...]
    """As `GET /v1/domains` tells them."""
    ingest: tuple[IngestStatus, ...]
    """One for each worker."""
    replicas: dict[str, ReplicaStatus]
    """By name."""
    actors: tuple[ActorStatus, ...] = ()
    """Every actor, as its supervisor heard of it last; empty before it has said anything."""
    unread: tuple[Stretch, ...] = ()
    """What the stream did not give any more before it was read."""
    trouble: Words | None = None
    """What keeps the coordinator from going on."""
    replica: ReplicaHealth | None = None
    """The replica that answered; null where the status was asked of the coordinator."""

    def troubles(self) -> Iterator[tuple[str, str]]:
        """Everything that is failing now or lost for good, as (who, what): the coordinator, what could not be read,
        actors that are not up, ingest loops, domains, replicas."""
        if self.trouble:
            yield "coordinator", self.trouble
        yield from ((actor.name, actor.in_words()) for actor in self.actors if actor.state != "up")
        # What the coordinator and the ingest workers fail for is told by themselves.
        told = {"coordinator", *(worker.name for worker in self.ingest)}
        for actor in self.actors:
            if actor.state == "up" and actor.trouble and actor.name not in told:
                yield actor.name, actor.trouble
        yield from (
            (
                f"stream {gap.partition}",
                f"offsets {gap.first} to {gap.last} were gone before they were read: send them again",
            )
            for gap in self.unread
        )
        for worker in self.ingest:
            yield from ((f"{worker.name} {loop}", what) for loop, what in worker.trouble.items())
        yield from ((d.domain, d.detail or d.state) for d in self.domains if d.state == "failed")
        yield from (
            (
                f"{d.domain} lost",
                f"{gap.rows} examples in {gap.partition}, offsets {gap.first} to {gap.last}, were counted and can't be "
                "trained on: send them again, or remove the domain",
            )
            for d in self.domains
            for gap in d.lost
        )
        yield from ((name, replica.fenced) for name, replica in self.replicas.items() if replica.fenced)
        if self.replica is not None:
            for what in (self.replica.engine_failure, self.replica.unload_failure, self.replica.trouble):
                if what:
                    yield "this replica", what

    def recovering(self) -> str | None:
        """Say in one sentence which actors are being recovered; None where all are up."""
        away = [f"{actor.name} ({actor.in_words()})" for actor in self.actors if actor.state != "up"]
        return f"being recovered: {', '.join(away)}" if away else None


class DomainEvent(Body):
    """An event `domains` of `GET /v1/events`; its event `system` is a `SystemStatus` without domains."""

    domains: tuple[DomainStatus, ...]
    """Those that are not what was told last; all of them in the first event."""
    gone: tuple[str, ...]
    """Names of those that are not there any more."""


class TroubleEvent(Body):
    """An event `trouble` of `GET /v1/events`: nothing can be told now; the next other event ends it."""

    message: str
    """Why, in one line."""
