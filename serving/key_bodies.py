"""The bodies of the paths for keys and of the audit log. Knows no HTTP framework."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Literal

from pydantic import Field

from registry.audit import Act
from registry.keys import AccessKey, Scope
from serving.api import Body

LONGEST_OVERLAP_SECONDS = 30 * 86_400.0


class KeyStatus(Body):
    """One key; its secrets are told to nobody."""

    id: str
    """By which it is revoked, rotated and named in the audit log."""
    name: str
    """For people."""
    state: Literal["valid", "expired", "revoked"]
    """Whether it opens anything."""
    scopes: tuple[Scope, ...]
    """`infer`, `ingest`, `admin`."""
    domains: tuple[str, ...] | None = None
    """The domains that it is for; null for all."""
    requests_per_minute: int | None = None
    """Requests in any 60 seconds; null for no bound."""
    tokens_per_day: int | None = None
    """Tokens of prompts and answers in a day of UTC; null for no bound."""
    created_at: datetime
    """When it was made."""
    rotated_at: datetime | None = None
    """When it got its newest secret."""
    expires_at: datetime | None = None
    """From when on it opens nothing."""
    revoked_at: datetime | None = None
    """Since when it opens nothing any more."""

    @classmethod
    def of(cls, key: AccessKey, now: datetime) -> KeyStatus:
        """What may be told of a key."""
        ended = key.expires_at is not None and key.expires_at <= now
        state = "revoked" if key.revoked_at is not None else "expired" if ended else "valid"
        return cls.model_validate({**key.model_dump(), "state": state})


class KeyList(Body):
    """`GET /v1/keys`."""

    keys: tuple[KeyStatus, ...]
    """All, by age; those that have ended for 90 days more."""


class KeyMade(Body):
    """`POST /v1/keys` and a rotation."""

    key: KeyStatus
    """The key."""
    api_key: str
    """What to send as `Authorization: Bearer`. Told this once, and kept nowhere."""


class RotationRequest(Body):
    """Asks for a rotation; the body may be left out."""

    overlap_seconds: Annotated[float, Field(ge=0.0, le=LONGEST_OVERLAP_SECONDS)] = 86_400.0
    """For how long the secrets of before go on opening; at most 30 days."""


class AuditAct(Body):
    """One act of an administrator's."""

    at: datetime
    """When it was begun."""
    who: str
    """Id of the key, or who did it at the registry itself."""
    what: str
    """Method and path, or a command."""
    outcome: str | None = None
    """Status of the answer, and what came of it; null where nobody has said: it may be done or not."""

    @classmethod
    def of(cls, act: Act) -> AuditAct:
        """The same as it is recorded."""
        return cls.model_validate(act.model_dump())


class AuditList(Body):
    """`GET /v1/audit`."""

    acts: tuple[AuditAct, ...]
    """The newest first."""
