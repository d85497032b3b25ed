"""Adapters on disk: plain PEFT folders under names that never mean other weights.

`adapters/<domain>@v<N>-<digest8>/` holds `adapter_config.json`, `adapter_model.safetensors` and, of our own,
`anabranch.json` with the facts of its training and a checksum of them, and `exam.jsonl`: the examples held out of all
that the version's segment has learned. A version of rank 0 has no adapter: the base, as it was changed with it, answers
for it, and it is known by that change. What this module does not know: which adapter is in service, what an exam says.
"""

import hashlib
import json
import os
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from pydantic import AwareDatetime, Field, ValidationError

from registry.atomic import Staging, discard, exclusive, place_folder, sync_folder, write_file
from registry.errors import DigestMismatch, NewerHome, RegistryError, UnknownAdapter
from registry.manifest import Placed, Record, Route, Sha256, Slug, adapter_name
from registry.records import sealed, unsealed
from registry.tensors import check_layout

CONFIG = "adapter_config.json"
WEIGHTS = "adapter_model.safetensors"
FACTS = "anabranch.json"
EXAM = "exam.jsonl"
_FORMAT = 3
_NAME = re.compile(r"^(?P<domain>[a-z0-9][a-z0-9_-]{0,62})@v(?P<version>[1-9]\d*)-[0-9a-f]{8}$")


class AdapterFacts(Record):
    """How a version came about and what the gate said of it."""

    domain: Slug
    version: int = Field(ge=1)
    status: Literal["accepted", "rejected"]
    """What the gate decided; only an accepted version may be routed to."""
    reason: str = ""
    """The gate's words."""
    rank: int = Field(ge=0)
    """0 where there is no adapter and the base answers for the segment by itself."""
    base_digest: str
    """Digest of the base model that the adapter was trained on."""
    base_delta: Sha256 | Literal[""] = ""
    """sha256 of the folder with the change of that base's weights that it was judged on; empty for none."""
    learner: str
    """Method that trained it."""
    segment: int = Field(default=1, ge=1)
    """The segment of the domain that it answers for: a new one where it would have lost what came before."""
    beside: tuple[str, ...] = ()
    """Full names of the versions of the domain's other segments that it was judged beside, and serves with."""
    together: tuple[str, ...] = ()
    """Full names of the versions of other segments that the same training has made: they come into service with it."""
    state: Sha256 | Literal[""] = ""
    """sha256 of the folder with the state that the training left its method; empty where it left none."""
    trained_on: int | None = Field(default=None, ge=0)
    """Number of the manifest that was in force when its training began, 0 before the first; None where the method has
    several lanes, whose trainings take nothing from other domains."""
    exam_rows: int = Field(default=0, ge=0)
    """Examples in its exam."""
    exam_digest: str = ""
    """sha256 of the exam's file; empty where there is none."""
    train_examples: int = Field(ge=0)
    held_out_examples: int = Field(ge=0)
    figures: dict[str, float] = Field(default_factory=dict)
    """Losses (nats a token), exact matches (0 to 1) and durations (seconds) by name."""
    created_at: AwareDatetime


class _Stored(Record):
    """What `anabranch.json` holds, beside its seal."""

    format: int = _FORMAT
    digest: Sha256
    facts: AdapterFacts

    def to_bytes(self) -> bytes:
        # By way of JSON, which has words for what is no number.
        return sealed(json.loads(self.model_dump_json()), FACTS)

    @classmethod
    def read(cls, path: Path) -> "_Stored":
        """The facts in the file; DigestMismatch unless they are as written, NewerHome if of a later format."""
        content = unsealed(path.read_bytes(), path, "restore it")
        if content.get("format") != _FORMAT:
            raise NewerHome(
                f"{path}: expected format {_FORMAT}, got {content.get('format')!r}; it is of a newer Anabranch: upgrade"
            )
        try:
            return cls.model_validate(content)
        except ValidationError as error:
            raise DigestMismatch(f"{path}: expected facts, got others ({error.title}); restore it") from error


@dataclass(frozen=True)
class Adapter:
    """One version of a domain's adapter, as it lies in the registry."""

    name: str
    domain: str
    version: int
    path: Path
    digest: str
    facts: AdapterFacts

    def verify(self) -> None:
        """Read the files again; DigestMismatch unless they are what was added."""
        found = _digest_in(self.path, self.facts)
        if found != self.digest:
            raise DigestMismatch(
                f"adapter {self.name} in {self.path}: expected sha256 {self.digest}, got {found}; "
                "the files were changed: restore them or train the domain again"
            )

    def exam(self) -> bytes:
        """Its exam as it was added, empty where it has none; DigestMismatch where it is not that any more."""
        if not self.facts.exam_digest:
            return b""
        path = self.path / EXAM
        try:
            content = path.read_bytes()
        except OSError as error:
            raise DigestMismatch(f"{path}: the exam of {self.name} can't be read: {error}; restore it") from error
        if hashlib.sha256(content).hexdigest() != self.facts.exam_digest:
            raise DigestMismatch(f"{path}: the exam of {self.name} is not what was added; restore it")
        return content

    def placed(self) -> Placed:
        """How a manifest names this version."""
        return Placed(adapter=self.name, digest=self.digest, rank=self.facts.rank, version=self.version)

    def route(self, beside: Iterable["Adapter"] = (), *, pinned: bool = False) -> Route:
        """A manifest's entry for this version, with those of the domain's other segments."""
        others = {adapter.facts.segment: adapter.placed() for adapter in beside}
        return Route(**self.placed().model_dump(), segment=self.facts.segment, beside=others, pinned=pinned)


class AdapterStore:
    """The folder of adapters. Anyone may read; adding takes the registry's lock."""

    def __init__(self, folder: Path, staging: Staging, lock: Path) -> None:
        self._folder = folder
        self._staging = staging
        self._lock = lock
        self._read: dict[str, tuple[tuple[int, int, int], Adapter]] = {}
        """What was read under each name and the file it was read from: a name never means other content."""

    def add(self, domain: str, version: int, folder: Path | None, facts: AdapterFacts, exam: bytes = b"") -> Adapter:
        """Copy a PEFT folder in, with its exam, whole or not at all; None for a version of rank 0.

        The same content for the same (domain, version) returns what is there, so that an interrupted caller may try
        again; other content, or another verdict on it, raises RegistryError. No other version is looked at.
        """
        if (facts.domain, facts.version) != (domain, version):
            raise RegistryError(
                f"adapter {domain} version {version}: the facts speak of {facts.domain} version {facts.version}; "
                "give the facts of this version"
            )
        if (folder is None) != (facts.rank == 0):
            raise RegistryError(
                f"adapter {domain} version {version}: expected a folder unless its rank is 0, got {folder} and rank "
                f"{facts.rank}; correct the facts"
            )
        files: dict[str, bytes] = {}
        if folder is not None:
            config, weights = _read(folder)
            _check_config(folder / CONFIG, config, facts)
            check_layout(weights, str(folder / WEIGHTS))
            files = {CONFIG: config, WEIGHTS: weights}
        digest = digest_of(files, facts)
        exam_digest = hashlib.sha256(exam).hexdigest() if exam else ""
        stored = _Stored(digest=digest, facts=facts.model_copy(update={"exam_digest": exam_digest}))
        name = adapter_name(domain, version, digest)
        staged = self._staging.place(name)
        with exclusive(self._lock):
            existing = self.numbered(domain, version)
            if existing is not None:
                found = _same(existing, digest, facts)
                # The first attempt may have been interrupted just before its last fsync.
                sync_folder(self._folder)
                return found
            try:
                staged.mkdir()
                for file, content in files.items():
                    write_file(staged / file, content)
                if exam:
                    write_file(staged / EXAM, exam)
                write_file(staged / FACTS, stored.to_bytes())
                place_folder(staged, self._folder / name)
            except BaseException:
                discard(staged)
                raise
        return self.get(name)

    def select(self, domain: str | None = None) -> list[Adapter]:
        """Adapters by domain and version; those of one domain if it is named. RegistryError if one can't be read."""
        found, damaged = self.survey(domain)
        for error in damaged.values():
            raise error
        return found

    def survey(self, domain: str | None = None) -> tuple[list[Adapter], dict[str, RegistryError]]:
        """What `select` gives, and apart from it, by name, what is wrong with those that can't be read."""
        names = self._names()
        # Another thread may exchange the dictionary meanwhile.
        read = self._read
        self._read = {name: read[name] for name in names if name in read}
        found: list[Adapter] = []
        damaged: dict[str, RegistryError] = {}
        for name, (of, _) in sorted(names.items()):
            if domain not in (None, of):
                continue
            try:
                found.append(self.get(name))
            except UnknownAdapter:
                # Pruned between listing and reading.
                continue
            except RegistryError as error:
                damaged[name] = error
        return sorted(found, key=lambda adapter: (adapter.domain, adapter.version)), damaged

    def numbered(self, domain: str, version: int) -> Adapter | None:
        """The version of the domain with that number, None if there is none; raises as `get` does. No other is read."""
        for name, found in sorted(self._names().items()):
            if found == (domain, version):
                try:
                    return self.get(name)
                except UnknownAdapter:
                    # Pruned between listing and reading.
                    continue
        return None

    def has_version(self, domain: str, version: int) -> bool:
        """Whether there is a version of the domain with that number, readable or not."""
        return (domain, version) in self._names().values()

    def newest_version(self, domain: str) -> int:
        """The highest number that was given to a version of the domain, readable or not; 0 where there is none."""
        return max((version for of, version in self._names().values() if of == domain), default=0)

    def get(self, name: str) -> Adapter:
        """The adapter of that full name; raises UnknownAdapter."""
        path = self._folder / name
        try:
            if _NAME.match(name) is None:
                raise FileNotFoundError
            stat = (path / FACTS).stat()
            as_it_is = (stat.st_ino, stat.st_mtime_ns, stat.st_size)
            known = self._read.get(name)
            if known is not None and known[0] == as_it_is:
                return known[1]
            stored = _Stored.read(path / FACTS)
        except (FileNotFoundError, NotADirectoryError) as error:
            if _NAME.match(name) is None or not path.is_dir():
                raise UnknownAdapter(
                    f"adapter {name!r}: not in {self._folder}; expected a full name such as news@v1-0a1b2c3d, "
                    "list the adapters for those there are"
                ) from error
            raise DigestMismatch(f"adapter {name} in {path}: {FACTS} is missing; restore it") from error
        except OSError as error:
            raise RegistryError(
                f"adapter {name}: {FACTS} can't be read: {error}; mend the disk or restore it"
            ) from error
        except DigestMismatch as error:
            raise DigestMismatch(f"adapter {name}: {FACTS} is damaged: {error}") from error
        facts = stored.facts
        if adapter_name(facts.domain, facts.version, stored.digest) != name:
            raise DigestMismatch(
                f"adapter {name} in {path}: {FACTS} speaks of "
                f"{adapter_name(facts.domain, facts.version, stored.digest)}; restore the folder"
            )
        adapter = Adapter(name, facts.domain, facts.version, path, stored.digest, facts)
        self._read[name] = (as_it_is, adapter)
        return adapter

    def _names(self) -> dict[str, tuple[str, int]]:
        """Domain and version of each folder, by its name, which says both."""
        return {name: found for name in os.listdir(self._folder) if (found := parsed_name(name)) is not None}


def parsed_name(name: str) -> tuple[str, int] | None:
    """Domain and version of the adapter of that full name; None for what is none."""
    match = _NAME.match(name)
    return (match["domain"], int(match["version"])) if match else None


def digest_of(files: Mapping[str, bytes], facts: AdapterFacts) -> str:
    """sha256 over the PEFT files, each with its name and length, so that no byte can move between them; of a version
    that has none, over the name of the change by which the base answers for it."""
    digest = hashlib.sha256()
    for name, content in (files or {"base_delta": facts.base_delta.encode()}).items():
        digest.update(f"{name}:{len(content)}:".encode())
        digest.update(content)
    return digest.hexdigest()


def _digest_in(folder: Path, facts: AdapterFacts) -> str:
    return digest_of(dict(zip((CONFIG, WEIGHTS), _read(folder), strict=True)) if facts.rank else {}, facts)


def _read(folder: Path) -> tuple[bytes, bytes]:
    try:
        return (folder / CONFIG).read_bytes(), (folder / WEIGHTS).read_bytes()
    except OSError as error:
        raise RegistryError(
            f"{folder}: expected a PEFT folder with {CONFIG} and {WEIGHTS}, got {error}; save it as safetensors"
        ) from error


def _check_config(path: Path, config: bytes, facts: AdapterFacts) -> None:
    try:
        parsed = json.loads(config)
    except ValueError as error:
        raise RegistryError(f"{path}: expected JSON, got {error}; save the adapter again") from error
    rank = parsed.get("r") if isinstance(parsed, dict) else None
    if rank != facts.rank:
        raise RegistryError(f"{path}: expected rank {facts.rank} as in the facts, got r={rank!r}; correct the facts")


def _same(existing: Adapter, digest: str, facts: AdapterFacts) -> Adapter:
    if existing.digest != digest:
        raise RegistryError(
            f"adapter {existing.domain} version {existing.version}: {existing.name} is there with other content "
            f"(sha256 {existing.digest[:8]}, got {digest[:8]}); add it under the next version"
        )
    if existing.facts.status != facts.status:
        raise RegistryError(
            f"adapter {existing.name}: is there as {existing.facts.status}, got {facts.status}; "
            "a verdict is final, add the retrained adapter under the next version"
        )
    return existing
