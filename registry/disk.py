"""A registry's files in a folder, on one machine or on a filesystem that several share.

What is written is complete under a name nobody reads, then renamed; one lock keeps writers from each other. What this
module does not know: what the files mean.
"""

import hashlib
import os
import shutil
from collections.abc import Callable, Collection, Hashable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, suppress
from functools import partial
from pathlib import Path
from stat import S_ISDIR

from registry import atomic
from registry.atomic import Staging, discard, exclusive, has_digest, place_folder, replace_file, sync_folder
from registry.errors import Overtaken, RegistryError
from registry.storage import Content, Listed, Tag

STAGING = "staging"
_CHUNK_BYTES = 8 << 20


class Disk:
    """The folder `path`; `Storage` says what its methods promise."""

    keeps_all = False

    def __init__(self, path: Path) -> None:
        self.path = path.absolute()
        self._staging = Staging(self.path / STAGING)

    @property
    def root(self) -> Path:
        return self.path

    def open(self, folders: Collection[str]) -> None:
        try:
            made = [self.path / name for name in (*folders, STAGING)]
            new = [folder for folder in (self.path, *self.path.parents) if not folder.exists()]
            for folder in made:
                folder.mkdir(parents=True, exist_ok=True)
            # Whoever was here before may have died between a rename and its fsync. What this process finds it will
            # build on, so it is made durable first.
            for folder in (*made, self.path, *(folder.parent for folder in new)):
                sync_folder(folder)
        except OSError as error:
            raise RegistryError(f"{self.path}: expected a folder to write to, got {error}; correct the path") from error

    def sweep(self) -> None:
        self._staging.sweep()

    def exclusive(self) -> AbstractContextManager[None]:
        return exclusive(self.path / "lock")

    # Files

    def read(self, key: str) -> bytes:
        return (self.path / key).read_bytes()

    def read_tagged(self, key: str) -> tuple[bytes, Tag]:
        content = self.read(key)
        return content, (hashlib.sha256(content).hexdigest(), None)

    def replace(self, key: str, content: bytes, tag: Tag | None) -> None:
        # The lock is held by who writes; this says it where the filesystem has no working one.
        found = None
        with suppress(FileNotFoundError):
            _, found = self.read_tagged(key)
        if found != tag:
            raise Overtaken(f"{self.path / key}: somebody else has replaced it meanwhile; read it and try again")
        replace_file(self._staging, self.path / key, content)

    def settle(self, key: str, value: str) -> str:
        return value

    def keep(self, key: str, parts: Sequence[bytes | memoryview], digest: str) -> bool:
        path = self.path / key
        is_there = has_digest(path, digest)
        if is_there:
            try:
                # As young as what will name it: a sweep leaves files alone that are younger than the last commit.
                os.utime(path)
            except FileNotFoundError:
                is_there = False
        if not is_there:
            path.parent.mkdir(exist_ok=True)
            staged = self._staging.place(path.name[:16])
            try:
                atomic.write_parts(staged, map(memoryview, parts))
                os.replace(staged, path)
            except BaseException:
                discard(staged)
                raise
        # Also of what is there: whoever wrote it may have died before the name was durable.
        sync_folder(path.parent)
        sync_folder(path.parent.parent)
        return not is_there

    def state(self, key: str) -> Listed:
        stat = (self.path / key).stat()
        return Listed(key, stat.st_mtime_ns / 1e9, _state(stat))

    def size(self, key: str) -> int:
        return (self.path / key).stat().st_size

    def entries(self, folder: str) -> list[Listed]:
        return sorted(self._entries(folder), key=lambda entry: entry.key)

    def _entries(self, folder: str) -> Iterator[Listed]:
        try:
            names = os.listdir(self.path / folder)
        except (FileNotFoundError, NotADirectoryError):
            return
        for name in names:
            key = f"{folder}/{name}"
            try:
                entry = self.state(key)
            except FileNotFoundError:
                continue
            if (self.path / key).is_dir():
                yield from self._entries(key)
            else:
                yield entry

    def remove(self, keys: Collection[str]) -> None:
        paths = [self.path / key for key in keys]
        for path in paths:
            discard(path)
        for folder in {path.parent for path in paths}:
            sync_folder(folder)

    def local(self, key: str, digest: str) -> Path:
        return self.path / key

    # Folders

    def keep_folder(self, key: str, files: Mapping[str, Content]) -> None:
        final = self.path / key
        staged = self._staging.place(final.name)
        try:
            staged.mkdir()
            for name, content in files.items():
                if isinstance(content, bytes):
                    atomic.write_file(staged / name, content)
                else:
                    atomic.write_parts(staged / name, map(memoryview, stream(content)))
            place_folder(staged, final)
        except BaseException:
            discard(staged)
            raise

    def touch_folder(self, key: str) -> None:
        with suppress(FileNotFoundError):
            os.utime(self.path / key)
        # Whoever placed it may have been interrupted just before the last fsync.
        sync_folder((self.path / key).parent)

    def folder_state(self, key: str, file: str) -> Hashable:
        return _state((self.path / key / file).stat())

    def folders(self, folder: str) -> list[Listed]:
        found = []
        for name in sorted(os.listdir(self.path / folder)):
            with suppress(FileNotFoundError):
                stat = (self.path / folder / name).stat()
                if S_ISDIR(stat.st_mode):
                    found.append(Listed(f"{folder}/{name}", stat.st_mtime_ns / 1e9))
        return found

    def has_folder(self, key: str) -> bool:
        return (self.path / key).is_dir()

    def contents(self, key: str) -> dict[str, int]:
        return {path.name: path.stat().st_size for path in sorted((self.path / key).iterdir()) if path.is_file()}

    def read_in(self, key: str, file: str) -> bytes:
        return self.read(f"{key}/{file}")

    def stream_in(self, key: str, file: str) -> Iterator[bytes]:
        return stream(self.path / key / file)

    def remove_folder(self, key: str) -> None:
        atomic.remove_folder(self._staging, self.path / key)

    def local_folder(self, key: str) -> Path:
        return self.path / key

    def present(self, path: Path) -> None:
        """What one machine sees the others see."""

    def fetch(self, key: str, verify: Callable[[], None]) -> Path:
        verify()
        return self.path / key

    def hand_over(self, key: str, folder: Path) -> Path:
        final = self.path / key
        final.mkdir(parents=True)
        for file in [path for path in folder.iterdir() if path.is_file()]:
            # The machine's own disk may be another filesystem.
            shutil.move(file, final / file.name)
        return final

    def take_away(self, path: Path) -> None:
        discard(path)


def stream(path: Path) -> Iterator[bytes]:
    """A file piece by piece."""
    with path.open("rb") as file:
        yield from iter(partial(file.read, _CHUNK_BYTES), b"")


def _state(stat: os.stat_result) -> Hashable:
    return stat.st_ino, stat.st_mtime_ns, stat.st_size
