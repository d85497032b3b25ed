"""Adapters that were made elsewhere, on their way into a domain.

`offered/<domain>@offer-<digest16>/` holds one as its two PEFT files: whoever offers it puts it there, under a name that
says what it is. Nothing is done with it before `offers/<domain>.json` says so, which the coordinator alone writes, and
which also says why one was refused. What this module does not know: whether an adapter is any good.
"""

import hashlib
import json
import re
from contextlib import suppress
from typing import Literal

from pydantic import AwareDatetime, Field, ValidationError

from registry.adapters import CONFIG, WEIGHTS, content_digest
from registry.errors import DigestMismatch, RegistryError
from registry.manifest import Record, Sha256, Slug
from registry.records import sealed, unsealed
from registry.storage import Place, Storage

_UPLOADS, _RECORDS = "offered", "offers"
_NAME = re.compile(r"(?P<domain>[a-z0-9][a-z0-9_-]{0,62})@offer-[0-9a-f]{16}")
_FILES = {CONFIG, WEIGHTS}
_UNTAKEN_SECONDS = 24 * 3600.0


class Offer(Record):
    """What has become of an adapter that was offered to a domain."""

    format: Literal[1] = 1
    domain: Slug
    name: str
    """Of the upload."""
    digest: Sha256
    """sha256 over its files, as of a version's."""
    state: Literal["waiting", "refused"]
    """Waiting: it is the candidate when the domain's examples are complete."""
    reason: str = ""
    """Why it was refused."""
    note: str = ""
    """Words of whoever offered it."""
    after: int = Field(default=0, ge=0)
    """The highest number that a version of the domain had when it was taken."""
    created_at: AwareDatetime


class Offers:
    """The offers of a registry, at most one taken for each domain. Raises RegistryError or OSError where the storage
    can't be asked."""

    def __init__(self, storage: Storage) -> None:
        self._storage = storage

    # Uploads

    def put(self, domain: str, config: bytes, weights: bytes) -> str:
        """Copy an adapter in, whole or not at all; returns its name. Again it changes nothing."""
        name = offer_name(domain, content_digest(config, weights))
        self._storage.open([_UPLOADS, _RECORDS])
        with self._storage.exclusive():
            try:
                self.read(domain, name, len(weights) + len(config))
                self._storage.touch_folder(_key(name))
            except RegistryError:
                self._drop_upload(name)
                self._storage.keep_folder(_key(name), {CONFIG: config, WEIGHTS: weights})
        return name

    def read(self, domain: str, name: str, most_bytes: int) -> tuple[bytes, bytes]:
        """Configuration and weights of an upload for that domain; RegistryError unless it is there, of bounded size,
        and what its name says."""
        if (match := _NAME.fullmatch(name)) is None or match["domain"] != domain:
            raise RegistryError(
                f"offer {name!r:.100}: expected one for {domain}, such as {domain}@offer-0123456789abcdef"
            )
        place = Place(self._storage, _key(name))
        try:
            sizes = self._storage.contents(place.key)
            if sizes.keys() != _FILES or sum(sizes.values()) > most_bytes:
                raise DigestMismatch(
                    f"offer {name}: expected {CONFIG} and {WEIGHTS} of at most {most_bytes} bytes, got {sizes}; "
                    "offer it again"
                )
            config, weights = (self._storage.read_in(place.key, file) for file in (CONFIG, WEIGHTS))
        except (FileNotFoundError, NotADirectoryError) as error:
            raise RegistryError(f"offer {name}: it is not there; offer the adapter again") from error
        if offer_name(domain, content_digest(config, weights)) != name:
            raise DigestMismatch(f"offer {name}: it is not what its name says; offer the adapter again")
        return config, weights

    def place(self, name: str) -> Place:
        """Where an upload lies."""
        return Place(self._storage, _key(name))

    def drop(self, name: str) -> None:
        """Remove an upload; it may be gone already."""
        with self._storage.exclusive():
            self._drop_upload(name)

    # What was decided

    def get(self, domain: str) -> Offer | None:
        """What was last decided of an offer to a domain, None where nothing was; DigestMismatch where it is not as it
        was written."""
        where = f"offer to {domain}"
        try:
            return Offer.model_validate(unsealed(self._storage.read(_record(domain)), where, "offer it again"))
        except (FileNotFoundError, NotADirectoryError):
            return None
        except ValidationError as error:
            raise DigestMismatch(f"{where}: expected what is known here, got others; offer it again") from error

    def all(self) -> list[Offer]:
        """The same of all domains, of those that can be read."""
        found = []
        for entry in self._storage.entries(_RECORDS):
            with suppress(DigestMismatch):
                found.append(self.get(entry.name.removesuffix(".json")))
        return [offer for offer in found if offer is not None]

    def decide(self, offer: Offer) -> None:
        """Write what was decided, durably, in the place of what was before; of the domain's uploads the one that waits
        stays, and of others those that may still be taken."""
        content = sealed(json.loads(offer.model_dump_json()), _record(offer.domain))
        self._storage.open([_UPLOADS, _RECORDS])
        with self._storage.exclusive():
            self._storage.keep(_record(offer.domain), [content], hashlib.sha256(content).hexdigest())
            self._tidy(offer)

    def forget(self, domain: str, digest: str | None = None) -> bool:
        """Remove what is known of an offer to a domain, with its upload: of the one with that digest, where it is
        given. Returns whether there was any."""
        offer = None
        # What can't be read names no upload: that goes when it has become old.
        with suppress(DigestMismatch):
            offer = self.get(domain)
            if offer is None or digest not in (None, offer.digest):
                return False
        with self._storage.exclusive():
            self._storage.remove([_record(domain)])
            if offer is not None:
                self._drop_upload(offer.name)
        return True

    def _tidy(self, decided: Offer) -> None:
        uploads = self._storage.folders(_UPLOADS)
        now = max((each.modified for each in uploads), default=0.0)
        waiting = {each.name for each in self.all() if each.state == "waiting"}
        for each in uploads:
            of_domain = each.name.partition("@")[0] == decided.domain
            if each.name not in waiting and (of_domain or now - each.modified > _UNTAKEN_SECONDS):
                self._drop_upload(each.name)

    def _drop_upload(self, name: str) -> None:
        if self._storage.has_folder(_key(name)):
            self._storage.remove_folder(_key(name))


def offer_name(domain: str, digest: str) -> str:
    """Name of an upload of that content; RegistryError for what is no domain's name."""
    name = f"{domain}@offer-{digest[:16]}"
    if _NAME.fullmatch(name) is None:
        raise RegistryError(f"domain {domain!r:.100}: expected a name of a-z, 0-9, _ and -, at most 63 long")
    return name


def _key(name: str) -> str:
    return f"{_UPLOADS}/{name}"


def _record(domain: str) -> str:
    return f"{_RECORDS}/{domain}.json"
