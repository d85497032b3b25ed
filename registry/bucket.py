"""A registry's files in a bucket of an object store: S3 and what speaks like it, Google's and Azure's.

An object is there whole or not at all. There is no lock: what is named by its content may be put by anybody at any
time, and a record is replaced on the condition that it is what was read. A folder is an index, put last, that names its
files by their content: `adapters/x.json` for what lies below `adapters/x/`. Who needs a file gets a copy in a folder of
this machine, compared with its digest. What this module does not know: what the objects mean.
"""

import hashlib
import json
import threading
from collections.abc import Callable, Collection, Hashable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import obstore
from obstore.exceptions import AlreadyExistsError, BaseError, PreconditionError

from registry.atomic import discard
from registry.errors import DigestMismatch, Overtaken, RegistryError, StoreAway
from registry.local_copies import LocalCopies
from registry.storage import Content, Listed, Tag

T = TypeVar("T")

_CHUNK_BYTES = 8 << 20
"""What one request carries at most: it has to end before it is given up."""
_WORDS = 300
_LOCKS: dict[str, threading.Lock] = {}


class Bucket:
    """The objects of `store`, known to people as `root`, with copies of some below `copies`; `Storage` says what its
    methods promise. Each request is made through `_ask`."""

    keeps_all = True

    def __init__(self, store: Any, root: str, copies: Path) -> None:
        self._store, self.root = store, root
        self._copies = LocalCopies(copies)

    def open(self, folders: Collection[str]) -> None:
        self._copies.open()

    def sweep(self) -> None:
        """Nobody leaves anything but objects that nothing names, which are pruned."""

    @contextmanager
    def exclusive(self) -> Iterator[None]:
        with _LOCKS.setdefault(self.root, threading.Lock()):
            yield

    def _ask(self, kind: str, key: str, request: Callable[[], T]) -> T:
        """What a request gives; `Overtaken` where its condition does not hold, `StoreAway` where it failed."""
        try:
            return request()
        except FileNotFoundError as error:
            if kind == "put":
                raise StoreAway(f"{self.root}: expected a bucket, got none; make it, or correct the URL") from error
            raise FileNotFoundError(f"{self.root}/{key}: no such object") from error
        except (AlreadyExistsError, PreconditionError) as error:
            raise Overtaken(
                f"{self.root}/{key}: somebody else has replaced it meanwhile; read it and try again"
            ) from error
        except (BaseError, OSError, ValueError) as error:
            words = " ".join(str(error).partition("Debug source")[0].split())[:_WORDS]
            raise StoreAway(
                f"{self.root}/{key}: {kind} failed: {words}; mend the way to the store, or its credentials"
            ) from error

    # Files

    def read(self, key: str) -> bytes:
        return b"".join(self._chunks(key))

    def read_tagged(self, key: str) -> tuple[bytes, Tag]:
        def ask() -> tuple[bytes, Tag]:
            found = obstore.get(self._store, key)
            return bytes(found.bytes()), (found.meta["e_tag"], found.meta["version"])

        return self._ask("get", key, ask)

    def _chunks(self, key: str) -> Iterator[bytes]:
        def begin() -> tuple[int, bytes]:
            found = obstore.get(self._store, key)
            size = found.meta["size"]
            return size, bytes(found.bytes()) if size <= _CHUNK_BYTES else b""

        size, content = self._ask("get", key, begin)
        if content or not size:
            yield content
            return
        for start in range(0, size, _CHUNK_BYTES):
            end = min(start + _CHUNK_BYTES, size)
            yield self._ask("get", key, partial(self._range, key, start, end))

    def _range(self, key: str, start: int, end: int) -> bytes:
        return bytes(obstore.get_range(self._store, key, start=start, end=end))

    def replace(self, key: str, content: bytes, tag: Tag | None) -> None:
        mode: Any = "create"
        if tag is not None:
            mode = {name: each for name, each in zip(("e_tag", "version"), tag, strict=True) if each is not None}
        try:
            self._put(key, content, mode)
        except (Overtaken, StoreAway):
            # The answer may be lost, or have been refused to a request that was repeated, though the first took effect.
            try:
                if self.read(key) == content:
                    return
            except FileNotFoundError:
                pass
            raise

    def _put(self, key: str, content: bytes, mode: Any) -> None:
        self._ask("put", key, lambda: obstore.put(self._store, key, content, mode=mode, use_multipart=False))

    def settle(self, key: str, value: str) -> str:
        try:
            self.replace(key, value.encode(), None)
        except Overtaken:
            return self.read(key).decode()
        return value

    def keep(self, key: str, parts: Sequence[bytes | memoryview], digest: str) -> bool:
        # Always put: that is one request, mends what is damaged, and makes it young.
        self._put_all(key, parts, sum(len(part) for part in parts))
        return True

    def _put_all(self, key: str, parts: Iterable[bytes | memoryview], size: int) -> None:
        if size <= _CHUNK_BYTES:
            content = b"".join(parts)
            self._ask("put", key, lambda: obstore.put(self._store, key, content, use_multipart=False))
        else:
            self._ask("put", key, lambda: obstore.put(self._store, key, parts, chunk_size=_CHUNK_BYTES))

    def state(self, key: str) -> Listed:
        return self._entry(self._ask("head", key, lambda: obstore.head(self._store, key)))

    def size(self, key: str) -> int:
        return int(self._ask("head", key, lambda: obstore.head(self._store, key))["size"])

    def entries(self, folder: str) -> list[Listed]:
        found = self._ask("list", folder, lambda: obstore.list(self._store, folder).collect())
        return sorted(map(self._entry, found), key=lambda entry: entry.key)

    def _entry(self, meta: Any) -> Listed:
        return Listed(meta["path"], meta["last_modified"].timestamp(), (meta["e_tag"], meta["version"]))

    def remove(self, keys: Collection[str]) -> None:
        for key in keys:
            self._delete(key)

    def _delete(self, key: str) -> None:
        with suppress(FileNotFoundError):
            self._ask("delete", key, lambda: obstore.delete(self._store, key))

    def local(self, key: str, digest: str) -> Path:
        path = self._copies.file(key, lambda: self._checked(key, digest))
        self._tidy()
        return path

    # Folders

    def keep_folder(self, key: str, files: Mapping[str, Content]) -> None:
        index: dict[str, list[Any]] = {}
        for name, content in files.items():
            digest, size = _digest_of(content)
            index[name] = [digest, size]
            parts = [content] if isinstance(content, bytes) else _read(content)
            self._put_all(f"{key}/{digest}/{name}", parts, size)
        self._put(_index(key), json.dumps(index, sort_keys=True).encode(), "overwrite")

    def touch_folder(self, key: str) -> None:
        content = self.read(_index(key))
        self._put(_index(key), content, "overwrite")

    def folder_state(self, key: str, file: str) -> Hashable:
        return self.state(_index(key)).state

    def folders(self, folder: str) -> list[Listed]:
        found = self._ask("list", folder, lambda: obstore.list_with_delimiter(self._store, folder))["objects"]
        indexes = [entry for entry in map(self._entry, found) if entry.key.endswith(".json")]
        return [Listed(each.key.removesuffix(".json"), each.modified, each.state) for each in indexes]

    def has_folder(self, key: str) -> bool:
        try:
            self.size(_index(key))
        except FileNotFoundError:
            return False
        return True

    def _files(self, key: str) -> dict[str, tuple[str, int]]:
        where = f"{self.root}/{_index(key)}"
        try:
            found = json.loads(self.read(_index(key)))
            return {str(name): (str(digest), int(size)) for name, (digest, size) in found.items()}
        except (ValueError, TypeError, AttributeError) as error:
            raise DigestMismatch(f"{where}: expected the files of a folder, got {error}; restore it") from error

    def contents(self, key: str) -> dict[str, int]:
        return {name: size for name, (_, size) in self._files(key).items()}

    def _key_of(self, key: str, file: str) -> tuple[str, str]:
        files = self._files(key)
        if file not in files:
            raise FileNotFoundError(f"{self.root}/{key}/{file}: no such file in the folder")
        digest = files[file][0]
        return f"{key}/{digest}/{file}", digest

    def read_in(self, key: str, file: str) -> bytes:
        return self.read(self._key_of(key, file)[0])

    def stream_in(self, key: str, file: str) -> Iterator[bytes]:
        return self._chunks(self._key_of(key, file)[0])

    def remove_folder(self, key: str) -> None:
        self._delete(_index(key))
        self.remove([entry.key for entry in self.entries(key)])

    def local_folder(self, key: str) -> Path:
        return self._local(key, checked=False)

    def present(self, path: Path) -> None:
        if (key := self._copies.key_of(path)) is not None:
            self.local_folder(key)

    def fetch(self, key: str, verify: Callable[[], None]) -> Path:
        return self._local(key, checked=True)

    def hand_over(self, key: str, folder: Path) -> Path:
        files = [path for path in folder.iterdir() if path.is_file()]
        self.keep_folder(key, {file.name: file for file in files})
        for file in files:
            file.unlink()
        return self._copies.path(key)

    def take_away(self, path: Path) -> None:
        discard(path)
        if (key := self._copies.key_of(path)) is not None:
            self.remove_folder(key)

    def _local(self, key: str, *, checked: bool) -> Path:
        def fill() -> dict[str, tuple[str, Iterable[bytes]]]:
            files = self._files(key)
            return {
                name: (digest, self._checked(f"{key}/{digest}/{name}", digest)) for name, (digest, _) in files.items()
            }

        path = self._copies.folder(key, fill, checked=checked)
        self._tidy()
        return path

    def _checked(self, key: str, digest: str) -> Iterator[bytes]:
        """An object piece by piece; DigestMismatch after the last one where it is not what it was."""
        found = hashlib.sha256()
        for chunk in self._chunks(key):
            found.update(chunk)
            yield chunk
        if found.hexdigest() != digest:
            raise DigestMismatch(
                f"{self.root}/{key}: expected sha256 {digest}, got {found.hexdigest()}; restore the file from a backup"
            )

    def _tidy(self) -> None:
        """Drop the copies of what the bucket has no more, now and then."""
        for key in self._copies.due():
            try:
                self.size(key if key.startswith("segments/") else _index(key))
            except FileNotFoundError:
                self._copies.drop(key)
            except RegistryError:
                return


def _index(key: str) -> str:
    return f"{key}.json"


def _read(path: Path) -> Iterator[bytes]:
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK_BYTES):
            yield chunk


def _digest_of(content: Content) -> tuple[str, int]:
    if isinstance(content, bytes):
        return hashlib.sha256(content).hexdigest(), len(content)
    digest, size = hashlib.sha256(), 0
    for chunk in _read(content):
        digest.update(chunk)
        size += len(chunk)
    return digest.hexdigest(), size
