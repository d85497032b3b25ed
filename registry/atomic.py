"""Files that are there whole or not at all, and stay there through a crash or a power cut.

The recipe is always the same: write under a name nobody reads, fsync the file, rename, fsync the folder. Until the
rename a reader sees the old state; after the last fsync the new one is durable. Between the two a power cut may
leave either, never a mixture. What this module does not know: what the files mean.
"""

import fcntl
import hashlib
import os
import shutil
import socket
import time
import uuid
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

_CHUNK_BYTES = 8 << 20
_ABANDONED_SECONDS = 24 * 3600
# Tells this run of a process from an earlier one with the same number on the same host, as containers have them.
_RUN = uuid.uuid4().hex[:8]


class Staging:
    """The folder for unfinished files, on the same filesystem as their final places.

    Names carry host, process and run, so that a writer can tell what a dead one has left behind.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._owner = f"{socket.gethostname()}~{os.getpid()}~{_RUN}"

    def place(self, label: str) -> Path:
        """A fresh path; nothing is created there."""
        return self._folder / f"{self._owner}~{uuid.uuid4().hex[:8]}~{label}"

    def sweep(self) -> int:
        """Remove what dead writers have left behind, and return how many entries that was."""
        swept = 0
        for path in self._folder.iterdir():
            if self._abandoned(path):
                discard(path)
                swept += 1
        return swept

    def _abandoned(self, path: Path) -> bool:
        parts = path.name.split("~")
        if len(parts) != 5:
            return True
        host, process, run = parts[:3]
        if host == socket.gethostname():
            if run == _RUN:
                return False
            if int(process) == os.getpid() or not Path(f"/proc/{process}").exists():
                return True
        # A live process may have taken a dead one's number, and other hosts cannot be asked: age decides.
        try:
            return time.time() - path.stat().st_mtime > _ABANDONED_SECONDS
        except FileNotFoundError:
            return False


def write_file(path: Path, content: bytes) -> None:
    """Write a new file and force it to the disk. Its name is durable only after `sync_folder` on its folder."""
    write_parts(path, (memoryview(content),))


def write_parts(path: Path, parts: Iterable[memoryview]) -> None:
    """The same with a content that comes in parts of bytes, one after another."""
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o644)
    try:
        for view in parts:
            while view:
                view = view[os.write(descriptor, view[:_CHUNK_BYTES]) :]
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def has_digest(path: Path, digest: str) -> bool:
    """Whether there is a file whose content has that sha256; one that can't be read has none."""
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest() == digest
    except OSError:
        return False


def sync_folder(folder: Path) -> None:
    """Force the names in a folder to the disk."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def replace_file(staging: Staging, final: Path, content: bytes) -> None:
    """Put `content` at `final`, replacing what was there, in one step and durably."""
    staged = staging.place(final.name)
    try:
        write_file(staged, content)
        os.replace(staged, final)
    except BaseException:
        discard(staged)
        raise
    sync_folder(final.parent)


def place_folder(staged: Path, final: Path) -> None:
    """Move a folder whose files were written by `write_file` to a name that is not taken, in one step and durably."""
    sync_folder(staged)
    os.rename(staged, final)
    sync_folder(final.parent)


def remove_folder(staging: Staging, folder: Path) -> None:
    """Remove a folder so that no reader ever finds it with only some of its files."""
    doomed = staging.place(folder.name)
    os.rename(folder, doomed)
    # Both ends of the move, before any file inside goes: else a power cut could bring the folder back half empty.
    sync_folder(doomed.parent)
    sync_folder(folder.parent)
    discard(doomed)


def discard(path: Path) -> None:
    """Remove a file or folder that nobody reads; it may be gone already."""
    try:
        if path.is_dir():
            shutil.rmtree(path)
        else:
            os.unlink(path)
    except FileNotFoundError:
        pass


@contextmanager
def exclusive(path: Path) -> Iterator[None]:
    """Hold the lock file at `path`: one writer at a time, across processes and threads; freed if the holder dies."""
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)
