"""Where things lie below a registry's root.

    head.json                           what is in force; its replacement is the commit
    lineage.json                        random, once a home
    epoch.json                          the run of the writer that may commit
    keys.json                           access keys, their secrets as digests
    usage.json                          tokens that keys have used on the last days
    audit/<time>-<act>.json             what administrators have done
    snapshots/NNNNNN-<sha256>.json      roots: the router's state, naming the segment files that it stands on
    segments/<2>/<sha256>.safetensors   what the state is made of; immutable, named by content
    manifests/NNNNNN.json               what is or was in service, readable by people; in a bucket NNNNNN-<sha256>.json
    routers/<sha256>.safetensors        the weights that manifests route with
    adapters/<domain>@v<N>-<digest8>/   immutable PEFT folders
    states/<sha256>/                    what a learning method keeps for its next training; immutable
    bases/<sha256>/                     changes of the base's weights; immutable
    trained/<learner>~<domain>@v<N>~…/  what a training has left, until the coordinator has taken it in
    unfinished/<domain>@v<N>            what another learner needs to go on with a training
    offered/<domain>@offer-<digest16>/  adapters made elsewhere, before they are a version
    offers/<domain>.json                which of them is taken, or why one was refused
    staging/                            unfinished writes; nobody reads here
    lock                                held by whoever changes something
    numbers/<domain>@v<N>               in a bucket, the full name of the version that has the number

A bucket has neither staging nor lock, and beside each folder of files an index.

What this module does not know: what is in the files and when they are written.
"""

import re
from collections.abc import Iterator
from typing import NamedTuple

from registry.disk import Disk
from registry.errors import OldHome
from registry.storage import Listed, Place, Storage

_FOLDERS = ("adapters", "states", "bases", "routers", "manifests", "snapshots", "segments")
_SNAPSHOT = re.compile(r"^(?P<number>\d{6,})-(?P<digest>[0-9a-f]{64})\.json$")
_MANIFEST = re.compile(r"^(?P<number>\d{6,})(-[0-9a-f]{64})?\.json$")


class SnapshotName(NamedTuple):
    """What a root's file name says."""

    number: int
    digest: str


class Layout:
    """Places below one root, and what is there by its name."""

    def __init__(self, storage: Storage) -> None:
        self.storage = storage
        self.root = storage.root
        self.head = self.place("head.json")
        self.lineage = self.place("lineage.json")
        self.epoch = self.place("epoch.json")
        self.keys = self.place("keys.json")
        self.usage = self.place("usage.json")

    def place(self, key: str) -> Place:
        """What lies under a key."""
        return Place(self.storage, key)

    def create(self) -> None:
        """Make what is missing, and what is there durable; RegistryError where that cannot be."""
        self._refuse_old()
        self.storage.open(_FOLDERS)

    def has_content(self) -> bool:
        """Whether anything lies there that only a home can have that has begun."""
        return any(self.storage.entries(folder) for folder in _FOLDERS)

    def _refuse_old(self) -> None:
        if not isinstance(self.storage, Disk):
            return
        frozen = self.storage.path / "frozen"
        snapshots = self.storage.entries("snapshots")
        # The folder is there from an old home's first moment, also where nothing is in it yet.
        has_begun = frozen.is_dir() and (any(frozen.iterdir()) or (self.has_content() and not self.lineage.is_there()))
        if has_begun or any(entry.name.endswith(".safetensors") for entry in snapshots):
            raise OldHome(
                f"{self.root}: written by Anabranch 0.1, whose snapshots do not say which example was counted where, "
                "so that rows still to be trained on could not be told from lost ones; let 0.1 publish what waits "
                "and keep its adapters, or begin a new home and feed again"
            )

    def snapshot(self, number: int, digest: str) -> Place:
        """The root of a snapshot."""
        return self.place(f"snapshots/{number:06d}-{digest}.json")

    def snapshots(self) -> list[tuple[SnapshotName, Listed]]:
        """Ascending; roots of interrupted commits may be among them."""
        found = ((_SNAPSHOT.match(entry.name), entry) for entry in self.storage.entries("snapshots"))
        return sorted(
            ((SnapshotName(int(match["number"]), match["digest"]), entry) for match, entry in found if match),
            key=lambda pair: pair[0],
        )

    def snapshot_names(self) -> list[SnapshotName]:
        """The same by name."""
        return [name for name, _ in self.snapshots()]

    def manifest(self, number: int, digest: str) -> Place:
        """A manifest; where anybody may write at once, its name says its digest too."""
        return self.place(f"manifests/{number:06d}{'-' + digest if self.storage.keeps_all else ''}.json")

    def manifests(self) -> Iterator[tuple[int, Place]]:
        """Ascending; manifests of interrupted commits, and of a line that was left, may be among them."""
        for entry in self.storage.entries("manifests"):
            if match := _MANIFEST.match(entry.name):
                yield int(match["number"]), self.place(entry.key)

    def router(self, digest: str) -> Place:
        """The weights of that content."""
        return self.place(f"routers/{digest}.safetensors")
