"""Adapters on disk: plain PEFT folders under names that never mean other weights.

`adapters/<domain>@v<N>-<digest8>/` holds `adapter_config.json`, `adapter_model.safetensors` and, of our own,
`anabranch.json` with the facts of its training and a checksum of them, and `exam.jsonl`: the examples held out of all
that the version's segment has learned. A version of rank 0 has no adapter: the base, as it was changed with it, answers
for it, and it is known by that change. What this module does not know: which adapter is in service, what an exam says.
"""

import hashlib
import json
import re
from collections.abc import Hashable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from pydantic import AwareDatetime, Field, ValidationError

from registry.errors import DigestMismatch, NewerHome, RegistryError, UnknownAdapter
from registry.manifest import Placed, Record, Route, Sha256, Slug, adapter_name
from registry.records import sealed, unsealed
from registry.storage import Content, Place, Storage
from registry.tensors import check_layout

CONFIG = "adapter_config.json"
WEIGHTS = "adapter_model.safetensors"
FACTS = "anabranch.json"
EXAM = "exam.jsonl"
FOLDER = "adapters"
_FORMAT = 3
_NAME = re.compile(r"^(?P<domain>[a-z0-9][a-z0-9_-]{0,62})@v(?P<version>[1-9]\d*)-[0-9a-f]{8}$")


class Parity(Record):
    """A held-out example as its learner read it with the adapter, to be compared with how it is served."""

    ids: tuple[int, ...] = Field(min_length=1)
    prompt_tokens: int = Field(ge=1)
    """Those before the completion."""
    loss: float = Field(allow_inf_nan=False)
    """Mean cross-entropy of the completion, nats a token."""


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
    parity: tuple[Parity, ...] = ()
    """A few of its held-out examples; none where no exams are kept."""
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
    def read(cls, text: bytes, path: Place) -> "_Stored":
        """The facts in the file; DigestMismatch unless they are as written, NewerHome if of a later format."""
        content = unsealed(text, path, "restore it")
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
    place: Place
    digest: str
    facts: AdapterFacts

    @property
    def path(self) -> Path:
        """The folder on this machine, for who needs files."""
        return self.place.storage.local_folder(self.place.key)

    def fetch(self) -> Path:
        """The same after its bytes were read here and now; raises as `verify` does."""
        try:
            return self.place.storage.fetch(self.place.key, self.verify)
        except OSError as error:
            raise RegistryError(f"adapter {self.name}: can't be read: {error}; restore it") from error

    def verify(self) -> None:
        """Read the files again; DigestMismatch unless they are what was added."""
        try:
            files = {name: self._read(name) for name in (CONFIG, WEIGHTS)} if self.facts.rank else {}
        except OSError as error:
            raise RegistryError(
                f"{self.place}: expected a PEFT folder with {CONFIG} and {WEIGHTS}, got {error}; restore it"
            ) from error
        found = digest_of(files, self.facts)
        if found != self.digest:
            raise DigestMismatch(
                f"adapter {self.name} in {self.place}: expected sha256 {self.digest}, got {found}; "
                "the files were changed: restore them or train the domain again"
            )

    def exam(self) -> bytes:
        """Its exam as it was added, empty where it has none; DigestMismatch where it is not that any more."""
        if not self.facts.exam_digest:
            return b""
        path = f"{self.place}/{EXAM}"
        try:
            content = self._read(EXAM)
        except OSError as error:
            raise DigestMismatch(f"{path}: the exam of {self.name} can't be read: {error}; restore it") from error
        if hashlib.sha256(content).hexdigest() != self.facts.exam_digest:
            raise DigestMismatch(f"{path}: the exam of {self.name} is not what was added; restore it")
        return content

    def _read(self, file: str) -> bytes:
        return self.place.storage.read_in(self.place.key, file)

    def placed(self) -> Placed:
        """How a manifest names this version."""
        return Placed(adapter=self.name, digest=self.digest, rank=self.facts.rank, version=self.version)

    def route(self, beside: Iterable["Adapter"] = (), *, pinned: bool = False) -> Route:
        """A manifest's entry for this version, with those of the domain's other segments."""
        others = {adapter.facts.segment: adapter.placed() for adapter in beside}
        return Route(**self.placed().model_dump(), segment=self.facts.segment, beside=others, pinned=pinned)


class AdapterStore:
    """The adapters of a registry. Anyone may read; adding takes the registry's lock."""

    def __init__(self, storage: Storage) -> None:
        self._storage = storage
        self._read: dict[str, tuple[Hashable, Adapter]] = {}
        """What was read under each name and the state of what it was read from: a name never means other content."""

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
        files: dict[str, Content] = {}
        config = weights = b""
        if folder is not None:
            config, weights = _read(folder)
            _check_config(folder / CONFIG, config, facts)
            check_layout(weights, str(folder / WEIGHTS))
            files = {CONFIG: config, WEIGHTS: weights}
        digest = digest_of({CONFIG: config, WEIGHTS: weights} if files else {}, facts)
        exam_digest = hashlib.sha256(exam).hexdigest() if exam else ""
        stored = _Stored(digest=digest, facts=facts.model_copy(update={"exam_digest": exam_digest}))
        name = adapter_name(domain, version, digest)
        if exam:
            files[EXAM] = exam
        files[FACTS] = stored.to_bytes()
        with self._storage.exclusive():
            existing = self.numbered(domain, version)
            if existing is None:
                self._storage.keep_folder(_key(name), files)
                settled = self._storage.settle(number_key(domain, version), name)
                if settled == name:
                    return self.get(name)
                # Somebody else gave the number to other content at the same moment.
                self._storage.remove_folder(_key(name))
                existing = self.get(settled)
            found = _same(existing, digest, facts)
            # The first attempt may have been interrupted just before its end.
            self._storage.touch_folder(_key(found.name))
            return found

    def select(self, domain: str | None = None) -> list[Adapter]:
        """Adapters by domain and version; those of one domain if it is named. RegistryError if one can't be read."""
        found, damaged = self.survey(domain)
        for error in damaged.values():
            raise error
        return found

    def survey(self, domain: str | None = None) -> tuple[list[Adapter], dict[str, RegistryError]]:
        """What `select` gives, and apart from it, by name, what is wrong with those that can't be read."""
        names = self._listed()
        # Another thread may exchange the dictionary meanwhile.
        read = self._read
        self._read = {name: read[name] for name in names if name in read}
        found: list[Adapter] = []
        damaged: dict[str, RegistryError] = {}
        for name, state in sorted(names.items()):
            if domain is not None and (parsed_name(name) or ("", 0))[0] != domain:
                continue
            try:
                found.append(self._get(name, state))
            except UnknownAdapter:
                # Pruned between listing and reading.
                continue
            except RegistryError as error:
                damaged[name] = error
        return sorted(found, key=lambda adapter: (adapter.domain, adapter.version)), damaged

    def numbered(self, domain: str, version: int) -> Adapter | None:
        """The version of the domain with that number, None if there is none; raises as `get` does. No other is read."""
        for name in sorted(self._listed()):
            if parsed_name(name) == (domain, version):
                try:
                    return self.get(name)
                except UnknownAdapter:
                    # Pruned between listing and reading.
                    continue
        return None

    def has_version(self, domain: str, version: int) -> bool:
        """Whether there is a version of the domain with that number, readable or not."""
        return (domain, version) in map(parsed_name, self._listed())

    def newest_version(self, domain: str) -> int:
        """The highest number that was given to a version of the domain, readable or not; 0 where there is none."""
        numbers = (parsed_name(name) or ("", 0) for name in self._listed())
        return max((version for of, version in numbers if of == domain), default=0)

    def get(self, name: str) -> Adapter:
        """The adapter of that full name; raises UnknownAdapter."""
        return self._get(name, None)

    def _get(self, name: str, state: Hashable) -> Adapter:
        key = _key(name)
        place, facts_place = Place(self._storage, key), Place(self._storage, f"{key}/{FACTS}")
        try:
            if _NAME.match(name) is None:
                raise FileNotFoundError
            as_it_is = state or self._storage.folder_state(key, FACTS)
            known = self._read.get(name)
            if known is not None and known[0] == as_it_is:
                return known[1]
            stored = _Stored.read(self._storage.read_in(key, FACTS), facts_place)
        except (FileNotFoundError, NotADirectoryError) as error:
            if _NAME.match(name) is None or not self._storage.has_folder(key):
                raise UnknownAdapter(
                    f"adapter {name!r}: not in {self._storage.root}; expected a full name such as news@v1-0a1b2c3d, "
                    "list the adapters for those there are"
                ) from error
            raise DigestMismatch(f"adapter {name} in {place}: {FACTS} is missing; restore it") from error
        except OSError as error:
            raise RegistryError(
                f"adapter {name}: {FACTS} can't be read: {error}; mend the disk or restore it"
            ) from error
        except DigestMismatch as error:
            raise DigestMismatch(f"adapter {name}: {FACTS} is damaged: {error}") from error
        facts = stored.facts
        if adapter_name(facts.domain, facts.version, stored.digest) != name:
            raise DigestMismatch(
                f"adapter {name} in {place}: {FACTS} speaks of "
                f"{adapter_name(facts.domain, facts.version, stored.digest)}; restore the folder"
            )
        adapter = Adapter(name, facts.domain, facts.version, place, stored.digest, facts)
        self._read[name] = (as_it_is, adapter)
        return adapter

    def _listed(self) -> dict[str, Hashable]:
        """The state of each version, where a listing tells it, by its name, which says domain and number."""
        states = {entry.name: entry.state for entry in self._storage.folders(FOLDER) if parsed_name(entry.name)}
        by_number: dict[tuple[str, int] | None, list[str]] = {}
        for name in states:
            by_number.setdefault(parsed_name(name), []).append(name)
        for number, names in by_number.items():
            if len(names) > 1 and number is not None and self._storage.keeps_all:
                # Whoever lost the number has not taken its folder away yet, or never will.
                settled = self._storage.settle(number_key(*number), min(names))
                states = {name: state for name, state in states.items() if name == settled or name not in names}
        return states


def number_key(domain: str, version: int) -> str:
    """Where it is settled which content has a number."""
    return f"numbers/{domain}@v{version}"


def _key(name: str) -> str:
    return f"{FOLDER}/{name}"


def parsed_name(name: str) -> tuple[str, int] | None:
    """Domain and version of the adapter of that full name; None for what is none."""
    match = _NAME.match(name)
    return (match["domain"], int(match["version"])) if match else None


def digest_of(files: Mapping[str, bytes], facts: AdapterFacts) -> str:
    """sha256 over the PEFT files, each with its name and length, so that no byte can move between them; of a version
    that has none, over the name of the change by which the base answers for it."""
    return _digest_of(files or {"base_delta": facts.base_delta.encode()})


def _digest_of(files: Mapping[str, bytes]) -> str:
    digest = hashlib.sha256()
    for name, content in files.items():
        digest.update(f"{name}:{len(content)}:".encode())
        digest.update(content)
    return digest.hexdigest()


def content_digest(config: bytes, weights: bytes) -> str:
    """The same of a version with an adapter of these two files."""
    return _digest_of({CONFIG: config, WEIGHTS: weights})


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
