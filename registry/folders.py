"""Folders that a learning method fills and that never change, each named by the sha256 of its content.

`<folder>/<sha256>/` holds safetensors and JSON files. A method's state and a change of the base lie so: beside the
adapters, as several manifests may name one. What this module does not know: what is in them, and who names them.
"""

import hashlib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from registry.disk import stream
from registry.errors import DigestMismatch, RegistryError
from registry.manifest import Sha256
from registry.storage import Listed, Place, Storage
from registry.tensors import read_header

_SUFFIXES = (".json", ".safetensors")


class FolderStore:
    """One kind of them. Anyone may read; whoever puts one has it durable when `put` returns.

    What nobody names yet is kept from pruning, by this process alone, while it is `held`.
    """

    def __init__(self, storage: Storage, folder: str) -> None:
        self._storage, self._folder = storage, folder
        self._holders = 0

    @contextmanager
    def held(self) -> Iterator[None]:
        """Within it no folder is pruned: others commit and prune between what is put and the version that names it."""
        with self._storage.exclusive():
            # A prune that has begun ends before: it might take away what is put again.
            self._holders += 1
        try:
            yield
        finally:
            with self._storage.exclusive():
                self._holders -= 1

    @property
    def is_held(self) -> bool:
        """Whether nothing may be pruned; asked under the registry's lock."""
        return self._holders > 0

    def put(self, source: Path) -> Sha256:
        """Copy a folder in, whole or not at all, and return its name from now on; what is there, and whole, is not
        written again. Raises RegistryError for anything in it but safetensors and JSON files."""
        files = _files(source)
        try:
            name = _digest((path.name, path.stat().st_size, stream(path)) for path in files)
        except OSError as error:
            raise RegistryError(f"{source}: expected files that can be read, got {error}") from error
        key = self._key(name)
        if self._storage.has_folder(key):
            self.verify(name)
            # As young as what will name it: a sweep leaves alone what is younger than the last commit.
            self._storage.touch_folder(key)
        else:
            self._storage.keep_folder(key, {path.name: path for path in files})
        return name

    def verify(self, name: Sha256) -> None:
        """Read the folder whole; DigestMismatch unless it is what was put, RegistryError where there is none."""
        key, place = self._key(name), self.place(name)
        if not self._storage.has_folder(key):
            raise RegistryError(f"{place}: expected a folder, got none; restore it from a backup")
        try:
            sizes = self._storage.contents(key)
            found = _digest((file, sizes[file], self._storage.stream_in(key, file)) for file in sorted(sizes))
        except FileNotFoundError as error:
            raise DigestMismatch(f"{place}: expected sha256 {name}, got none: {error}; restore the folder") from error
        except OSError as error:
            raise RegistryError(f"{place}: expected files that can be read, got {error}; restore it") from error
        if found != name:
            raise DigestMismatch(f"{place}: expected sha256 {name}, got {found}; restore the folder from a backup")

    def names(self) -> Iterator[Sha256]:
        """All that are there, whoever names them."""
        yield from (entry.name for entry in self.entries())

    def entries(self) -> list[Listed]:
        """The same as a listing has them."""
        return self._storage.folders(self._folder)

    def place(self, name: Sha256) -> Place:
        """Where the folder of that name is kept."""
        return Place(self._storage, self._key(name))

    def path(self, name: Sha256) -> Path:
        """Where the folder of that name lies on this machine."""
        return self._storage.local_folder(self._key(name))

    def fetch(self, name: Sha256) -> Path:
        """The same, after its bytes were read; raises as `verify` does."""
        try:
            return self._storage.fetch(self._key(name), lambda: self.verify(name))
        except FileNotFoundError as error:
            raise RegistryError(f"{error}; restore it from a backup") from error

    def _key(self, name: Sha256) -> str:
        return f"{self._folder}/{name}"


def _files(folder: Path) -> list[Path]:
    """The files of a folder by name; RegistryError for what may not be in it, or is no safetensors file inside."""
    try:
        paths = sorted(folder.iterdir())
    except OSError as error:
        raise RegistryError(f"{folder}: expected a folder of files, got {error}") from error
    strange = [path.name for path in paths if path.suffix not in _SUFFIXES or path.is_symlink() or not path.is_file()]
    if strange or not paths:
        raise RegistryError(f"{folder}: expected files {' and '.join(_SUFFIXES)} alone, got {strange or 'none'}")
    for path in paths:
        if path.suffix == ".safetensors":
            read_header(path)
    return paths


def _digest(files: Iterable[tuple[str, int, Iterable[bytes]]]) -> Sha256:
    """sha256 over the files, each with its name and length, so that no byte can move between them."""
    digest = hashlib.sha256()
    for name, size, content in files:
        digest.update(f"{name}:{size}:".encode())
        for chunk in content:
            digest.update(chunk)
    return digest.hexdigest()
