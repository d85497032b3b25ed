"""The bodies of the HTTP paths that look back: decisions, publications, exams, dead letters."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from serving.api import Body, RouteDecision


class DecisionRecord(Body):
    """A decision on a request, as it was kept: `GET /v1/decisions/{decision}`."""

    id: str = ""
    """By which it can be asked for again."""
    at: float
    """When it was taken, in Unix seconds."""
    model: str
    """What the request named: `auto`, `base`, a domain, a version or several."""
    manifest: int
    """Number of the manifest that decided."""
    prompt: str | None = None
    """The text that was decided on, of a chat its last user message, as far as it is kept."""
    decision: RouteDecision
    """Who answered, and why; of the scores the highest."""


class DecisionList(Body):
    """`GET /v1/decisions`: the newest first."""

    keep: int
    """About how many are kept; 0 where none are."""
    decisions: tuple[DecisionRecord, ...]
    """Those that were asked for."""


class PublishedChange(Body):
    """What one publication did to one domain, or to the base."""

    domain: str
    """The domain, or `base`."""
    kind: Literal["added", "updated", "rolled back", "pinned", "unpinned", "removed", "base"]
    """What was done; `base`: the change of the base's weights is another."""
    before: str | None = None
    """Full name of the version that served before."""
    after: str | None = None
    """Full name of the version that serves since."""
    training_seconds: float | None = None
    """What the training of a new version took."""
    publication_seconds: float | None = None
    """From the gate's word on a new version until the manifest was in force."""


class PublicationRecord(Body):
    """One manifest as it came into force."""

    manifest: int
    """Its number."""
    at: float
    """When it was made, in Unix seconds."""
    reason: str
    """Why."""
    domains: int
    """Domains that it serves."""
    changes: tuple[PublishedChange, ...]
    """What is not as in its parent; empty where that is damaged or not kept any more."""
    exact: dict[str, float] = Field(default_factory=dict)
    """By domain, share (0 to 1) of its exam that the version in service answers exactly, as the gate measured it."""


class PublicationList(Body):
    """`GET /v1/publications`: the newest first, as far as their manifests are kept."""

    publications: tuple[PublicationRecord, ...]
    """Those that were asked for."""
    damaged: tuple[int, ...] = ()
    """Numbers of manifests that can't be read any more."""


class ExamExample(Body):
    """A held-out example: never trained on."""

    prompt: str
    """As the model reads it."""
    completion: str
    """What it is to say."""


class ExamList(Body):
    """`GET /v1/domains/{domain}/exam`: some of what a version was judged on."""

    domain: str
    """The domain."""
    version: str
    """Full name of the version."""
    rows: int
    """Examples in its exam."""
    examples: tuple[ExamExample, ...]
    """Those that were asked for."""


class Letter(Body):
    """A record that could not be read, as it was put aside."""

    topic: str
    """Topic that it was read from."""
    partition: int
    """Its partition there."""
    offset: int
    """Its offset there; the three name it."""
    reason: str
    """What was wrong, as a word."""
    detail: str
    """What was wrong, in one line."""
    at: float
    """When it was put aside, in Unix seconds."""
    text: str | None = None
    """Its value, as UTF-8 with what is none replaced, up to 64 KiB; null where it has none."""
    bytes: int = 0
    """Of the whole value."""
    whole: bool = True
    """Whether all of it was kept, so that it can be replayed as it is."""


class LetterList(Body):
    """`GET /v1/dead-letters`: the newest first."""

    letters: tuple[Letter, ...]
    """Those that were asked for."""
    total: int
    """How many are not replayed."""


class LetterChoice(Body):
    """One dead letter, and what is to be sent in its place."""

    topic: str
    """As it was told."""
    partition: int
    """As it was told."""
    offset: int
    """As it was told."""
    text: str | None = Field(default=None, max_length=4 << 20)
    """A mended record; null sends it as it was."""


class ReplayRequest(Body):
    """Asks `POST /v1/dead-letters/replay`; without a body all are sent again as they were."""

    letters: tuple[LetterChoice, ...] | None = Field(default=None, max_length=1000)
    """Those to send; null for all."""


class ReplayResult(Body):
    """What a replay did."""

    replayed: int
    """Letters that are in the stream again, and not listed any more."""
    kept: tuple[str, ...] = ()
    """Of the others, origin and why, up to a hundred."""
