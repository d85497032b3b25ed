"""Trainings on their way: one block of bytes for each, where every learner finds it, whichever began it.

They lie where the registry does, as `unfinished/<domain>@v<version>`: what a learner kept last, replaced whole. Nothing
there is needed: without it a training begins anew. So together they are bounded, and the oldest goes first. What this
module does not know: what is in them, and which are still wanted.
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from learning.contract import Checkpoints
from registry.errors import RegistryError
from registry.storage import Storage

_FOLDER = "unfinished"


class Unfinished:
    """All of them, which together hold at most `most_bytes`. Raises `OSError` for whatever the storage can't do."""

    def __init__(self, storage: Storage, most_bytes: int) -> None:
        self._storage = storage
        self._most_bytes = most_bytes

    def of(self, domain: str, version: int) -> TrainingPlace:
        """Return where one training's lies."""
        return TrainingPlace(self, name_of(domain, version))

    def put(self, name: str, content: bytes) -> None:
        """Keep this in the place of what is there by that name, and make room for it."""
        if len(content) > self._most_bytes:
            raise OSError(
                f"{name} takes {len(content)} bytes, all together may take {self._most_bytes}; raise "
                "learner.checkpoint_bytes"
            )
        with _as_os_error():
            self._storage.open([_FOLDER])
            self._storage.keep(_key(name), [content], hashlib.sha256(content).hexdigest())
            self._make_room(name)

    def get(self, name: str) -> bytes | None:
        """Return what was kept by that name; None where there is nothing."""
        with _as_os_error():
            try:
                return self._storage.read(_key(name))
            except FileNotFoundError:
                return None

    def delete(self, name: str) -> None:
        """Keep nothing by that name any more."""
        with _as_os_error():
            self._storage.remove([_key(name)])

    def names(self) -> list[str]:
        """Return the names of all that are there."""
        with _as_os_error():
            return [each.name for each in self._storage.entries(_FOLDER)]

    def keep_only(self, names: Collection[str], wanted: Collection[str]) -> None:
        """Delete those of `names` that are not wanted, and what is left of writes that were cut short."""
        with _as_os_error():
            self._storage.remove([_key(name) for name in names if name not in wanted])
            self._storage.sweep()

    def _make_room(self, name: str) -> None:
        """Delete the oldest beside that name, until the rest is small enough."""
        found = []
        for each in self._storage.entries(_FOLDER):
            try:
                found.append((each.name == name, each.modified, self._storage.size(each.key), each.key))
            except FileNotFoundError:
                continue
        total = sum(size for _, _, size, _ in found)
        for _, _, size, key in sorted(found):
            if total <= self._most_bytes:
                break
            self._storage.remove([key])
            total -= size


class TrainingPlace:
    """Where one training's lies."""

    def __init__(self, unfinished: Unfinished, name: str) -> None:
        self._unfinished, self._name = unfinished, name

    def save(self, content: bytes) -> None:
        """See `learning.contract.Checkpoints`."""
        self._unfinished.put(self._name, content)

    def load(self) -> bytes | None:
        """See `learning.contract.Checkpoints`."""
        return self._unfinished.get(self._name)


def name_of(domain: str, version: int) -> str:
    """Return the name by which a training's is kept."""
    return f"{domain}@v{version}"


def _key(name: str) -> str:
    return f"{_FOLDER}/{name}"


@contextmanager
def _as_os_error() -> Iterator[None]:
    """Learners know of no registry."""
    try:
        yield
    except RegistryError as error:
        raise OSError(str(error)) from error


if TYPE_CHECKING:

    def _meets(place: TrainingPlace) -> Checkpoints:
        return place
