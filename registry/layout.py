"""Where things lie below a registry's root.

    adapters/<domain>@v<N>-<digest8>/   immutable PEFT folders
    routers/NNNNNN.safetensors          the weights that manifest NNNNNN routes with
    manifests/NNNNNN.json               history, readable by people
    snapshots/NNNNNN.safetensors        router state + watermarks + manifest
    frozen/<name>                       of homes whose features were fitted on their stream; only read
    staging/                            unfinished writes; nobody reads here
    lock                                held by whoever changes something

What this module does not know: what is in the files and when they are written.
"""

import os
import re
from pathlib import Path

from registry.atomic import sync_folder
from registry.errors import RegistryError

_FOLDERS = ("adapters", "routers", "manifests", "snapshots", "frozen", "staging")
_FROZEN_NAME = re.compile(r"^[a-z0-9][a-z0-9._-]{0,127}$")


class Layout:
    """Paths below one root, and the numbers that are there."""

    def __init__(self, root: Path) -> None:
        self.root = root.absolute()
        self.adapters = self.root / "adapters"
        self.staging = self.root / "staging"
        self.lock = self.root / "lock"

    def create(self) -> None:
        """Make what is missing, and make what is there durable; RegistryError where that cannot be."""
        try:
            new = [folder for folder in (self.root, *self.root.parents) if not folder.exists()]
            for name in _FOLDERS:
                (self.root / name).mkdir(parents=True, exist_ok=True)
            # Whoever was here before may have died between a rename and its fsync. What this process finds it will
            # build on, so it is made durable first.
            for folder in (*(self.root / name for name in _FOLDERS), self.root, *(folder.parent for folder in new)):
                sync_folder(folder)
        except OSError as error:
            raise RegistryError(f"{self.root}: expected a folder to write to, got {error}; correct the path") from error

    def snapshot(self, number: int) -> Path:
        return self.root / "snapshots" / f"{number:06d}.safetensors"

    def snapshot_numbers(self) -> list[int]:
        """Ascending, as are the others; files of interrupted commits may be among them."""
        return _numbers(self.root / "snapshots", ".safetensors")

    def manifest(self, number: int) -> Path:
        return self.root / "manifests" / f"{number:06d}.json"

    def manifest_numbers(self) -> list[int]:
        return _numbers(self.root / "manifests", ".json")

    def router(self, number: int) -> Path:
        return self.root / "routers" / f"{number:06d}.safetensors"

    def router_numbers(self) -> list[int]:
        return _numbers(self.root / "routers", ".safetensors")

    def frozen(self, name: str) -> Path:
        """RegistryError for a name that could lead elsewhere."""
        if not _FROZEN_NAME.match(name):
            raise RegistryError(f"frozen name {name!r}: expected lower case, digits, . _ and -; rename it")
        return self.root / "frozen" / name

    def relative(self, path: Path) -> str:
        """As manifests name it, so that a registry can be moved."""
        return path.relative_to(self.root).as_posix()


def _numbers(folder: Path, suffix: str) -> list[int]:
    stems = [name.removesuffix(suffix) for name in os.listdir(folder) if name.endswith(suffix)]
    return sorted(int(stem) for stem in stems if stem.isdecimal())
