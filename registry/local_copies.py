"""Copies on this machine of what lies in a bucket, for who needs files: named by what they are, compared with their
digest as they come, there whole or not at all.

They may be deleted at any time when nobody runs. What this module does not know: where they come from.
"""

import hashlib
import json
import os
import time
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path

from registry.atomic import discard

Files = Mapping[str, tuple[str, Iterable[bytes]]]
"""By name, a file's sha256 and its content, which raises at its end where it is another."""

_FILLING = "filling"
_INDEX = ".files.json"
_TIDY_SECONDS = 600.0


class LocalCopies:
    """Those below `folder`, which processes of this machine share."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._tidied = time.monotonic()

    def open(self) -> None:
        """Make the folder."""
        (self._folder / _FILLING).mkdir(mode=0o700, parents=True, exist_ok=True)

    def file(self, key: str, content: Callable[[], Iterable[bytes]]) -> Path:
        """The copy of a file, filled where there is none."""
        path = self._folder / key
        if not path.exists():
            self._place(path, lambda filling: _write(filling, content()))
        return path

    def folder(self, key: str, files: Callable[[], Files], *, checked: bool = False) -> Path:
        """The copy of a folder, filled where there is none, or where it is `checked` and not what it was."""
        path = self._folder / key
        if checked and path.exists() and not self._is_whole(path):
            self.drop(key)
        if not path.exists():
            self._place(path, lambda filling: _fill(filling, files()))
        return path

    def _place(self, path: Path, fill: Callable[[Path], None]) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        (self._folder / _FILLING).mkdir(parents=True, exist_ok=True)
        filling = self._folder / _FILLING / f"{os.getpid()}-{uuid.uuid4().hex}"
        try:
            fill(filling)
            try:
                os.rename(filling, path)
            except OSError:
                # Another one was faster.
                if not path.exists():
                    raise
        finally:
            discard(filling)

    def _is_whole(self, path: Path) -> bool:
        try:
            files = json.loads((path / _INDEX).read_bytes())
            found = {each.name: _digest(each) for each in path.iterdir() if each.name != _INDEX}
        except (OSError, ValueError):
            return False
        return bool(found == files)

    def path(self, key: str) -> Path:
        """Where the copy of a key is, or would be: alike on all machines of the same user."""
        return self._folder / key

    def key_of(self, path: Path) -> str | None:
        """The key of which a path here is the copy; None where it is none."""
        return path.relative_to(self._folder).as_posix() if path.is_relative_to(self._folder) else None

    def drop(self, key: str) -> None:
        """Delete a copy."""
        discard(self._folder / key)

    def due(self) -> Iterator[str]:
        """The keys of all copies, once in a while: whoever has lost what they are copies of drops them."""
        if time.monotonic() - self._tidied < _TIDY_SECONDS:
            return
        self._tidied = time.monotonic()
        for path in sorted(self._folder.glob("*/*")):
            below = path.glob("*") if path.parent.name == "segments" else [path]
            if path.parent.name != _FILLING:
                yield from (each.relative_to(self._folder).as_posix() for each in below)


def _write(path: Path, content: Iterable[bytes]) -> None:
    with path.open("xb") as file:
        for chunk in content:
            file.write(chunk)


def _fill(folder: Path, files: Files) -> None:
    folder.mkdir()
    for name, (_, content) in files.items():
        _write(folder / name, content)
    digests = {name: digest for name, (digest, _) in files.items()}
    _write(folder / _INDEX, [json.dumps(digests).encode()])


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
