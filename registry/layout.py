"""Where things lie below a registry's root.

    head.json                           what is in force; its replacement is the commit
    lineage.json                        random, once a home
    epoch.json                          the run of the writer that may commit
    snapshots/NNNNNN-<sha256>.json      roots: the router's state, naming the segment files that it stands on
    segments/<2>/<sha256>.safetensors   what the state is made of; immutable, named by content
    manifests/NNNNNN.json               what is or was in service, readable by people
    routers/<sha256>.safetensors        the weights that manifests route with
    adapters/<domain>@v<N>-<digest8>/   immutable PEFT folders
    states/<sha256>/                    what a learning method keeps for its next training; immutable
    bases/<sha256>/                     changes of the base's weights; immutable
    staging/                            unfinished writes; nobody reads here
    lock                                held by whoever changes something

What this module does not know: what is in the files and when they are written.
"""

import os
import re
from pathlib import Path
from typing import NamedTuple

from registry.atomic import sync_folder
from registry.errors import OldHome, RegistryError

_FOLDERS = ("adapters", "states", "bases", "routers", "manifests", "snapshots", "segments", "staging")
_SNAPSHOT = re.compile(r"^(?P<number>\d{6,})-(?P<digest>[0-9a-f]{64})\.json$")
_MANIFEST = re.compile(r"^(?P<number>\d{6,})\.json$")


class SnapshotName(NamedTuple):
    """What a root's file name says."""

    number: int
    digest: str


class Layout:
    """Paths below one root, and what is there by its name."""

    def __init__(self, root: Path) -> None:
        self.root = root.absolute()
        self.adapters = self.root / "adapters"
        self.states = self.root / "states"
        self.bases = self.root / "bases"
        self.routers = self.root / "routers"
        self.manifests = self.root / "manifests"
        self.snapshots = self.root / "snapshots"
        self.segments = self.root / "segments"
        self.staging = self.root / "staging"
        self.head = self.root / "head.json"
        self.lineage = self.root / "lineage.json"
        self.epoch = self.root / "epoch.json"
        self.lock = self.root / "lock"

    def create(self) -> None:
        """Make what is missing, and make what is there durable; RegistryError where that cannot be."""
        try:
            self._refuse_old()
            new = [folder for folder in (self.root, *self.root.parents) if not folder.exists()]
            for name in _FOLDERS:
                (self.root / name).mkdir(parents=True, exist_ok=True)
            # Whoever was here before may have died between a rename and its fsync. What this process finds it will
            # build on, so it is made durable first.
            for folder in (*(self.root / name for name in _FOLDERS), self.root, *(folder.parent for folder in new)):
                sync_folder(folder)
        except OSError as error:
            raise RegistryError(f"{self.root}: expected a folder to write to, got {error}; correct the path") from error

    def has_content(self) -> bool:
        """Whether anything lies there that only a home can have that has begun."""
        folders = (self.snapshots, self.manifests, self.adapters, self.segments, self.routers)
        return any(os.listdir(folder) for folder in folders if folder.is_dir())

    def _refuse_old(self) -> None:
        frozen = self.root / "frozen"
        snapshots = os.listdir(self.snapshots) if self.snapshots.is_dir() else []
        # The folder is there from an old home's first moment, also where nothing is in it yet.
        has_begun = frozen.is_dir() and (any(frozen.iterdir()) or (self.has_content() and not self.lineage.exists()))
        if has_begun or any(name.endswith(".safetensors") for name in snapshots):
            raise OldHome(
                f"{self.root}: written by Anabranch 0.1, whose snapshots do not say which example was counted where, "
                "so that rows still to be trained on could not be told from lost ones; let 0.1 publish what waits "
                "and keep its adapters, or begin a new home and feed again"
            )

    def snapshot(self, number: int, digest: str) -> Path:
        return self.snapshots / f"{number:06d}-{digest}.json"

    def snapshot_names(self) -> list[SnapshotName]:
        """Ascending; roots of interrupted commits may be among them."""
        found = (_SNAPSHOT.match(name) for name in os.listdir(self.snapshots))
        return sorted(SnapshotName(int(match["number"]), match["digest"]) for match in found if match)

    def manifest(self, number: int) -> Path:
        return self.manifests / f"{number:06d}.json"

    def manifest_numbers(self) -> list[int]:
        """Ascending; manifests of interrupted commits, and of a line that was left, may be among them."""
        found = (_MANIFEST.match(name) for name in os.listdir(self.manifests))
        return sorted(int(match["number"]) for match in found if match)

    def router(self, digest: str) -> Path:
        return self.routers / f"{digest}.safetensors"

    def relative(self, path: Path) -> str:
        """As manifests name it, so that a registry can be moved."""
        return path.relative_to(self.root).as_posix()
