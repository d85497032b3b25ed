"""Folders that a learning method fills and that never change, each named by the sha256 of its content.

`<folder>/<sha256>/` holds safetensors and JSON files. A method's state and a change of the base lie so: beside the
adapters, as several manifests may name one. What this module does not know: what is in them, and who names them.
"""

import hashlib
import os
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

from registry.atomic import Staging, discard, exclusive, place_folder, sync_folder, write_parts
from registry.errors import DigestMismatch, RegistryError
from registry.manifest import Sha256
from registry.tensors import read_header

_SUFFIXES = (".json", ".safetensors")
_CHUNK_BYTES = 8 << 20


class FolderStore:
    """One kind of them. Anyone may read; whoever puts one has it durable when `put` returns. `lock` is the registry's.

    What nobody names yet is kept from pruning, by this process alone, while it is `held`.
    """

    def __init__(self, folder: Path, staging: Staging, lock: Path) -> None:
        self._folder, self._staging, self._lock = folder, staging, lock
        self._holders = 0

    @contextmanager
    def held(self) -> Iterator[None]:
        """Within it no folder is pruned: others commit and prune between what is put and the version that names it."""
        with exclusive(self._lock):
            # A prune that has begun ends before: it might take away what is put again.
            self._holders += 1
        try:
            yield
        finally:
            with exclusive(self._lock):
                self._holders -= 1

    @property
    def is_held(self) -> bool:
        """Whether nothing may be pruned; asked under the registry's lock."""
        return self._holders > 0

    def put(self, source: Path) -> Sha256:
        """Copy a folder in, whole or not at all, and return its name from now on; what is there, and whole, is not
        written again. Raises RegistryError for anything in it but safetensors and JSON files."""
        staged = self._staging.place(source.name[:16])
        try:
            staged.mkdir()
            for path in _files(source):
                with path.open("rb") as file:
                    write_parts(staged / path.name, map(memoryview, iter(partial(file.read, _CHUNK_BYTES), b"")))
            name = _digest(staged)
            final = self.path(name)
            if final.is_dir():
                self.verify(name)
                # As young as what will name it: a sweep leaves alone what is younger than the last commit.
                os.utime(final)
                sync_folder(self._folder)
            else:
                place_folder(staged, final)
        finally:
            discard(staged)
        return name

    def verify(self, name: Sha256) -> None:
        """Read the folder whole; DigestMismatch unless it is what was put, RegistryError where there is none."""
        path = self.path(name)
        if not path.is_dir():
            raise RegistryError(f"{path}: expected a folder, got none; restore it from a backup")
        if (found := _digest(path)) != name:
            raise DigestMismatch(f"{path}: expected sha256 {name}, got {found}; restore the folder from a backup")

    def names(self) -> Iterator[Sha256]:
        """All that are there, whoever names them."""
        yield from sorted(path.name for path in self._folder.iterdir() if path.is_dir())

    def path(self, name: Sha256) -> Path:
        """Where the folder of that name lies."""
        return self._folder / name


def _files(folder: Path) -> list[Path]:
    """The files of a folder by name; RegistryError for what may not be in it."""
    try:
        paths = sorted(folder.iterdir())
    except OSError as error:
        raise RegistryError(f"{folder}: expected a folder of files, got {error}") from error
    strange = [path.name for path in paths if path.suffix not in _SUFFIXES or path.is_symlink() or not path.is_file()]
    if strange or not paths:
        raise RegistryError(f"{folder}: expected files {' and '.join(_SUFFIXES)} alone, got {strange or 'none'}")
    return paths


def _digest(folder: Path) -> Sha256:
    """sha256 over the files, each with its name and length, so that no byte can move between them. Raises RegistryError
    for what is no safetensors file inside."""
    digest = hashlib.sha256()
    for path in _files(folder):
        if path.suffix == ".safetensors":
            read_header(path)
        try:
            with path.open("rb") as file:
                digest.update(f"{path.name}:{path.stat().st_size}:".encode())
                for chunk in iter(partial(file.read, _CHUNK_BYTES), b""):
                    digest.update(chunk)
        except OSError as error:
            raise RegistryError(f"{path}: expected a file that can be read, got {error}") from error
    return digest.hexdigest()
