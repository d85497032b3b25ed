"""The access keys of a home: one small record, replaced as a whole, that every replica reads.

    keys.json    id, name, rights and bounds of each key, and the digest of each of its secrets

Of a key only digests are kept: what the record holds lets nobody in. What this module does not know: who asks, and what
the rights are for.
"""

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Annotated, Literal

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, StringConstraints, ValidationError

from registry.errors import KeyRefused, NewerHome, RegistryError, UnknownKey
from registry.key_form import digest_of, id_of, mint
from registry.layout import Layout
from registry.manifest import Sha256
from registry.records import sealed, unsealed
from registry.storage import Storage, Tag, again

MAX_KEYS = 10_000
_MAX_SECRETS = 8
_FORMAT = 1
_ENDED_ARE_KEPT = timedelta(days=90)
_REMEDY = "restore the file from a backup, or remove it and make new keys"

Scope = Literal["infer", "ingest", "admin"]
Name = Annotated[str, StringConstraints(min_length=1, max_length=100, pattern=r"^[^\x00-\x1f\x7f]*$")]
Names = Annotated[tuple[Annotated[str, StringConstraints(min_length=1, max_length=63)], ...], Field(max_length=10_000)]


class Grant(BaseModel):
    """What a key is made for."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    name: Name
    """For people; need not be unique."""
    scopes: Annotated[tuple[Scope, ...], Field(min_length=1)]
    """`infer`, `ingest`, `admin`: each stands for itself, none for another."""
    domains: Names | None = None
    """The domains that it is for, with `base` where the base may answer; null for all."""
    expires_at: AwareDatetime | None = None
    """From when on it opens nothing; null for never."""
    requests_per_minute: Annotated[int, Field(ge=1, le=100_000)] | None = None
    """Requests in any 60 seconds; null for no bound."""
    tokens_per_day: Annotated[int, Field(ge=1, le=10**15)] | None = None
    """Tokens of prompts and answers in a day of UTC, after which nothing new is begun; null for no bound."""


class Secret(BaseModel):
    """One of a key's secrets; `until` is when it ends, after a rotation."""

    model_config = ConfigDict(frozen=True)

    digest: Sha256
    until: AwareDatetime | None = None


class AccessKey(Grant):
    """A key: what it was made for, and what has become of it."""

    model_config = ConfigDict(extra="ignore")

    id: Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{12}$")]
    """By which it is found, listed and named in the audit log."""
    secrets: tuple[Secret, ...]
    created_at: AwareDatetime
    """When it was made."""
    rotated_at: AwareDatetime | None = None
    """When it got its newest secret; null while it has its first."""
    revoked_at: AwareDatetime | None = None
    """Since when it opens nothing any more."""

    def ended_at(self) -> datetime | None:
        """When it ended, or is going to; None for never."""
        return min((at for at in (self.revoked_at, self.expires_at) if at is not None), default=None)


class KeyStore:
    """The keys below one root, for any number of processes on any machine; each change is durable when it returns."""

    def __init__(self, storage: Storage, now: Callable[[], datetime] = lambda: datetime.now(UTC)) -> None:
        self._storage, self._now = storage, now
        layout = Layout(storage)
        self._place, self._head = layout.keys, layout.head

    def read(self) -> tuple[AccessKey, ...]:
        """All keys, ended ones too, by age. RegistryError where that can't be told."""
        return self._read()[0]

    def create(self, grant: Grant) -> tuple[AccessKey, str]:
        """Make a key; returns it and, for this once, its text."""
        text = mint()
        key = self._made(grant, text)
        self._change(lambda keys: [*keys, key])
        return key, text

    def first(self, grant: Grant, text: str) -> AccessKey | None:
        """Take this text for a key, where there has never been any; None where there has."""
        if id_of(text) is None:
            raise RegistryError(
                "the first key: expected ab-, 12 hexadecimal digits, - and 64 more, got something else; "
                'make one with: echo "ab-$(openssl rand -hex 6)-$(openssl rand -hex 32)"'
            )
        key = self._made(grant, text)
        if self._read()[1] is not None:
            return None
        kept = self._change(lambda keys: keys or [key])
        return key if key in kept else None

    def revoke(self, key: str) -> AccessKey:
        """Let it open nothing any more, for good; UnknownKey where there is none. May be repeated."""

        def revoked(before: AccessKey) -> AccessKey:
            return before if before.revoked_at else before.model_copy(update={"revoked_at": self._now()})

        return self._replace(key, revoked)

    def rotate(self, key: str, overlap: timedelta) -> tuple[AccessKey, str]:
        """Give it a further secret, and let those that it has end after `overlap`, unless they end before; returns it
        and, for this once, its new text. UnknownKey where there is none, KeyRefused for one that has ended."""
        text = mint(key)

        def rotated(before: AccessKey) -> AccessKey:
            now = self._now()
            if (ended := before.ended_at()) is not None and ended <= now:
                raise KeyRefused(f"key {key} ended at {ended:%Y-%m-%d %H:%M} UTC; make another one")
            end = now + overlap
            valid = [each for each in before.secrets if each.until is None or each.until > now]
            if len(valid) >= _MAX_SECRETS:
                raise KeyRefused(f"key {key} has {len(valid)} secrets that work; wait until the earlier ones end")
            old = [Secret(digest=each.digest, until=min(each.until or end, end)) for each in valid]
            secrets = (Secret(digest=digest_of(text)), *old)
            return before.model_copy(update={"secrets": secrets, "rotated_at": now})

        return self._replace(key, rotated), text

    def _made(self, grant: Grant, text: str) -> AccessKey:
        secrets = (Secret(digest=digest_of(text)),)
        fields = {"id": id_of(text), "secrets": secrets, "created_at": self._now()}
        return AccessKey.model_validate(grant.model_dump() | fields)

    def _replace(self, key: str, change: Callable[[AccessKey], AccessKey]) -> AccessKey:
        changed: list[AccessKey] = []

        def replaced(keys: list[AccessKey]) -> list[AccessKey]:
            if all(each.id != key for each in keys):
                raise UnknownKey(f"key {key[:40]!r} is not known; see `anabranch keys list`")
            after = [change(each) if each.id == key else each for each in keys]
            changed[:] = [each for each in after if each.id == key]
            return after

        self._change(replaced)
        return changed[0]

    def _change(self, change: Callable[[list[AccessKey]], list[AccessKey]]) -> list[AccessKey]:
        """Put what `change` makes of the keys in their place, whoever else changes them; returns them."""

        def attempt() -> list[AccessKey]:
            keys, tag = self._read()
            after = change(list(keys))
            limit = self._now() - _ENDED_ARE_KEPT
            kept = [each for each in after if (ended := each.ended_at()) is None or ended > limit]
            if len(kept) > MAX_KEYS:
                raise KeyRefused(f"expected at most {MAX_KEYS} keys, those that ended of late included; share some")
            if kept != list(keys):
                self._storage.replace(self._place.key, _text(kept), tag)
            return kept

        try:
            with self._storage.exclusive():
                return again(attempt)
        except OSError as error:
            raise RegistryError(f"{self._place}: can't be written: {error}; mend the disk") from error

    def _read(self) -> tuple[tuple[AccessKey, ...], Tag | None]:
        try:
            text, tag = self._storage.read_tagged(self._place.key)
            content = unsealed(text, self._place, _REMEDY)
            if content.get("format") != _FORMAT:
                raise NewerHome(
                    f"{self._place}: expected keys of format {_FORMAT}, got {content.get('format')!r}; upgrade"
                )
            return tuple(AccessKey.model_validate(each) for each in content["keys"]), tag
        except FileNotFoundError:
            # A folder that is away has no keys either, which is no reason to turn everybody out.
            if self._head.is_there():
                return (), None
            raise RegistryError(f"{self._head}: expected a home, got none; mend the way to it") from None
        except OSError as error:
            raise RegistryError(f"{self._place}: can't be read: {error}; mend the disk") from error
        except (ValidationError, KeyError, TypeError) as error:
            raise RegistryError(f"{self._place}: expected keys, got other entries; {_REMEDY}") from error


def _text(keys: list[AccessKey]) -> bytes:
    content = [each.model_dump(mode="json", exclude_none=True) for each in keys]
    return sealed({"format": _FORMAT, "keys": content}, "keys.json")
