"""One manifest: everything that answers a request, named together and never changed.

A manifest names a base revision, the router and the adapters of each domain, by digest; beside them the states that
methods go on from. What this module does not
know: files; and how a router scores or an adapter is loaded.
"""

import hashlib
from datetime import datetime
from pathlib import PurePosixPath
from typing import Annotated, Any, Literal, Self

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, StringConstraints, ValidationError, model_validator

from registry.errors import RegistryError

Slug = Annotated[str, StringConstraints(pattern=r"^[a-z0-9][a-z0-9_-]{0,62}$")]
Sha256 = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]


class Record(BaseModel):
    """What all stored records share: frozen, closed, and able to write down a loss that is not a number."""

    model_config = ConfigDict(extra="forbid", frozen=True, ser_json_inf_nan="strings", protected_namespaces=())


class BaseRevision(Record):
    """The base model that the adapters of a manifest are additions to."""

    model: str = Field(min_length=1)
    """Folder or hub name."""
    revision: str = "0"
    """Which release of that model."""
    digest: str = ""
    """Digest over configuration, weights and tokenizer; adapters and router statistics carry the same."""
    delta: Sha256 | Literal[""] = ""
    """sha256 of the folder with the change of its weights that adapters were judged on; empty for none."""

    @property
    def weights(self) -> tuple[str, str]:
        """By what its weights are known: those of the model, and of the change."""
        return self.digest, self.delta


class Placed(Record):
    """An adapter as a manifest names it."""

    adapter: str
    """Full immutable name, `domain@vN-digest8`."""
    digest: Sha256
    """sha256 over the adapter's files, or over what stands for them."""
    rank: int = Field(ge=0)
    """0 where the manifest's base answers by itself."""
    version: int = Field(ge=1)


class Route(Placed):
    """What answers for a domain: its newest version in service, and the adapters of its other segments beside it.

    A domain has one segment until an update would lose what came before; then it has one more, with an adapter and a
    column of the router of its own.
    """

    segment: int = Field(default=1, ge=1)
    """The segment that this version answers for."""
    beside: dict[int, Placed] = Field(default_factory=dict)
    """The adapters of the domain's other segments, by segment."""
    pinned: bool = False
    """Whether an operator holds this state of the domain against newer versions."""

    @property
    def segments(self) -> dict[int, Placed]:
        """All adapters that answer for the domain, by segment, in order."""
        own: dict[int, Placed] = {**self.beside, self.segment: self}
        return dict(sorted(own.items()))

    @property
    def names(self) -> tuple[str, ...]:
        """Full names of all of them."""
        return tuple(placed.adapter for placed in self.segments.values())


class RouterRef(Record):
    """The router's weights, a file of the registry."""

    fingerprint: str
    """Fingerprint of the features that the weights belong to."""
    head: str = "ridge"
    """How scores are made of the sums; like what follows for people, as the file holds all that decides."""
    abstention: str = "top"
    """By what a prompt is told to belong to no domain."""
    keep: float = 1.0
    """Share of held-out prompts of its domains that the threshold keeps."""
    ridge: float | None = None
    """Regularisation of the solve; None where the writer did not say it."""
    background: str = ""
    """Digest of the texts that stand for no domain; empty without such a class."""
    calibration_rows: int | None = None
    """Held-out examples of each label that were kept at most; None where the writer did not say it."""
    threshold: float | None = None
    """Confidence under which a prompt goes to the base model; None where there is none."""
    calibrated_on: int = 0
    """Held-out prompts that it was set by."""
    path: str = ""
    """Relative to the registry's root; filled in by `Registry.commit`."""
    digest: str = ""
    """sha256 of the file; filled in by `Registry.commit`."""

    @model_validator(mode="after")
    def _stays_inside(self) -> Self:
        path = PurePosixPath(self.path)
        if path.is_absolute() or ".." in path.parts:
            raise ValueError(f"router path: expected one relative to the registry's root, got {self.path!r}")
        return self


class Tombstone(Record):
    """What is left of a removed domain: what may never be served again."""

    version: int = Field(ge=0)
    """The highest number that was given to a version of it; versions that come later are another domain's, in fact."""
    manifest: int = Field(ge=1)
    """The manifest that removed it: files that only earlier ones name may go once nobody serves those."""


class Manifest(Record):
    """What is in service from one publication to the next."""

    format: Literal[2] = 2
    """Layout of this record; a reader refuses one that it does not know."""
    number: int = Field(ge=1)
    """Grows from manifest to manifest; never given twice, also not after a person went back to an earlier one."""
    parent: int | None = Field(default=None, ge=1)
    """The manifest before; None for the first."""
    parent_digest: str = ""
    """sha256 of the text of the manifest before; empty for the first."""
    created_at: AwareDatetime
    base: BaseRevision
    routes: dict[Slug, Route] = Field(default_factory=dict)
    """Adapter by domain; a domain without a route is not served, whatever the router has learned of it."""
    router: RouterRef | None = None
    examples: dict[Slug, int] = Field(default_factory=dict)
    """Examples in the router's statistics, by domain."""
    removed: dict[Slug, Tombstone] = Field(default_factory=dict)
    """Domains that were ever removed; one that was fed again may have a route as well."""
    withdrawn: dict[Slug, str] = Field(default_factory=dict)
    """Accepted versions that are not in service, by domain: no replica could load it, and it is tried again until the
    domain gets another; or it was learned under a pin, and waits for its end."""
    states: dict[str, Sha256] = Field(default_factory=dict)
    """By learning method, sha256 of the folder with the state that its last published training left."""
    reason: str = ""
    """What was published, for people."""

    @model_validator(mode="after")
    def _routes_agree(self) -> Self:
        for domain, route in self.routes.items():
            if route.segment in route.beside:
                raise ValueError(f"route of {domain}: segment {route.segment} has two adapters")
            for placed in route.segments.values():
                self._check_placed(domain, placed)
        return self

    def _check_placed(self, domain: str, placed: Placed) -> None:
        expected = adapter_name(domain, placed.version, placed.digest)
        if placed.adapter != expected:
            raise ValueError(f"route of {domain}: expected adapter {expected}, got {placed.adapter}")
        tombstone = self.removed.get(domain)
        if tombstone is not None and placed.version <= tombstone.version:
            raise ValueError(
                f"route of {domain}: {placed.adapter} belongs to a domain that was removed with manifest "
                f"{tombstone.manifest}; only versions after v{tombstone.version} may be served"
            )

    def digest(self) -> str:
        """sha256 of its canonical text: its name in the chain of manifests."""
        return hashlib.sha256(self.to_json().encode()).hexdigest()

    def to_json(self) -> str:
        """Canonical text: equal manifests give equal text."""
        return self.model_dump_json(indent=1) + "\n"

    @classmethod
    def from_json(cls, text: str | bytes, where: str) -> Self:
        """The manifest written by `to_json`; RegistryError names `where` and the first problem."""
        try:
            return cls.model_validate_json(text)
        except ValidationError as error:
            first: Any = error.errors(include_url=False)[0]
            key = ".".join(str(part) for part in first["loc"]) or "manifest"
            raise RegistryError(
                f"{where}: {key}: {first['msg']}, got {first['input']!r:.60}; "
                "the file is damaged or from a newer Anabranch: restore or upgrade"
            ) from error


def adapter_name(domain: str, version: int, digest: str) -> str:
    """`domain@vN-digest8`: never the same for different weights, as the engine's prefix cache demands."""
    return f"{domain}@v{version}-{digest[:8]}"


def column(domain: str, segment: int) -> str:
    """Name of a segment's column in the router: the domain's for its first segment, `domain#N` for a later one."""
    return domain if segment == 1 else f"{domain}#{segment}"


def retained_since(manifests: list[Manifest]) -> datetime | None:
    """When the oldest of these was made."""
    return min((manifest.created_at for manifest in manifests), default=None)
