"""What a person with the right to it does to a registry's files behind its back, in a folder and in a bucket alike."""

from __future__ import annotations

import fnmatch
import json
import os
import shutil
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import obstore

from registry.adapters import Adapter
from registry.bucket import Bucket
from registry.disk import Disk
from registry.registry import Registry
from registry.storage import Place, Storage

Files = Any
"""A `Path`, or an `ObjectPath`, which has what these tests use of one."""


def files(of: Registry | Adapter | Place) -> Files:
    """The files of a registry, or what lies at a place."""
    if isinstance(of, Registry):
        return _path(of.storage, "")
    place = of.place if isinstance(of, Adapter) else of
    return _path(place.storage, place.key)


def _path(storage: Storage, key: str) -> Files:
    if isinstance(storage, Disk):
        return storage.path / key
    assert isinstance(storage, Bucket)
    return ObjectPath(storage, key)


@dataclass(frozen=True)
class ObjectPath:
    """An object by its key; a file of a folder by the folder's key and its name."""

    bucket: Bucket
    key: str

    def __truediv__(self, name: str) -> ObjectPath:
        return ObjectPath(self.bucket, f"{self.key}/{name}".lstrip("/"))

    def __str__(self) -> str:
        return f"{self.bucket.root}/{self.key}"

    @property
    def name(self) -> str:
        return self.key.rpartition("/")[2]

    @property
    def suffix(self) -> str:
        return Path(self.key).suffix

    @property
    def parts(self) -> tuple[str, ...]:
        return tuple(self.key.split("/"))

    @property
    def parent(self) -> ObjectPath:
        return ObjectPath(self.bucket, self.key.rpartition("/")[0])

    @property
    def _object(self) -> str:
        folder, _, name = self.key.rpartition("/")
        if folder.count("/") == 1 and folder.split("/")[0] in ("adapters", "states", "bases"):
            try:
                index = json.loads(bytes(obstore.get(self.bucket._store, f"{folder}.json").bytes()))
                return f"{folder}/{index[name][0]}/{name}"
            except (FileNotFoundError, KeyError):
                pass
        if folder == "manifests" and len(name) == len("000001.json"):
            number = name.removesuffix(".json")
            return next((each.key for each in self.bucket.entries(folder) if number in each.key), self.key)
        return self.key

    def read_bytes(self) -> bytes:
        return bytes(obstore.get(self.bucket._store, self._object).bytes())

    def read_text(self) -> str:
        return self.read_bytes().decode()

    def write_bytes(self, content: bytes) -> None:
        obstore.put(self.bucket._store, self._object, content)
        # Nor has this machine a copy from before.
        self.bucket._copies.drop(self.key.removesuffix(".json") if self.key.count("/") == 1 else self.key)

    def write_text(self, text: str) -> None:
        self.write_bytes(text.encode())

    def unlink(self) -> None:
        obstore.delete(self.bucket._store, self._object)
        self.bucket._copies.drop(self.key)

    def exists(self) -> bool:
        try:
            obstore.head(self.bucket._store, self._object)
        except FileNotFoundError:
            return bool(list(self.iterdir()))
        return True

    def remove_tree(self) -> None:
        self.bucket.remove_folder(self.key)

    def iterdir(self) -> Iterator[ObjectPath]:
        """What a folder would hold: files, and folders by their index."""
        entries = self.bucket.entries(self.key) if self.key else self.rglob("*")
        if self.key in ("adapters", "states", "bases"):
            yield from (ObjectPath(self.bucket, entry.key) for entry in self.bucket.folders(self.key))
        else:
            yield from (ObjectPath(self.bucket, entry.key) for entry in entries)

    def glob(self, pattern: str) -> Iterator[ObjectPath]:
        folder, _, rest = pattern.rpartition("/") if pattern.count("/") < 2 else pattern.partition("/")
        first, _, file = rest.partition("/")
        for path in (self / folder if folder else self).iterdir():
            if fnmatch.fnmatch(path.name, first):
                yield path / file if file else path

    def rglob(self, pattern: str) -> Iterator[ObjectPath]:
        for meta in obstore.list(self.bucket._store, self.key or None).collect():
            if fnmatch.fnmatch(meta["path"].rpartition("/")[2], pattern):
                yield ObjectPath(self.bucket, meta["path"])

    def is_file(self) -> bool:
        return True


def make_old(registry: Registry, path: Files) -> None:
    """Let what lies there be older than the head."""
    if isinstance(path, Path):
        os.utime(path, (0, 0))
        return
    head = files(registry) / "head.json"
    time_passes(registry)
    head.write_bytes(head.read_bytes())
    time_passes(registry)


def time_passes(registry: Registry) -> None:
    """A server's clock has seconds alone."""
    if str(registry.root).startswith("s3:"):
        time.sleep(1.05)


def remove_tree(path: Files) -> None:
    """Delete a folder with all that is in it."""
    shutil.rmtree(path) if isinstance(path, Path) else path.remove_tree()
