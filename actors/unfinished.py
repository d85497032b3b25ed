"""Trainings on their way: one block of bytes for each, where every learner finds it, whichever began it.

    <folder>/<domain>@v<version>        what a learner kept last; replaced whole
    <folder>/staging/                   unfinished writes; nobody reads here

Nothing here is needed: without it a training begins anew. So together they are bounded, and the oldest goes first. What
this module does not know: what is in them, and which are still wanted.
"""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path
from typing import TYPE_CHECKING

from learning.contract import Checkpoints
from registry.atomic import Staging, replace_file


class Unfinished:
    """All of them, which together hold at most `most_bytes`. Raises `OSError` as the disk does."""

    def __init__(self, folder: Path, most_bytes: int) -> None:
        self._folder, self._most_bytes = folder, most_bytes
        self._staging = Staging(folder / "staging")

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
        (self._folder / "staging").mkdir(parents=True, exist_ok=True)
        replace_file(self._staging, self._folder / name, content)
        self._make_room(name)

    def get(self, name: str) -> bytes | None:
        """Return what was kept by that name; None where there is nothing."""
        try:
            return (self._folder / name).read_bytes()
        except FileNotFoundError:
            return None

    def delete(self, name: str) -> None:
        """Keep nothing by that name any more."""
        (self._folder / name).unlink(missing_ok=True)

    def names(self) -> list[str]:
        """Return the names of all that are there."""
        found = self._folder.iterdir() if self._folder.is_dir() else ()
        return sorted(path.name for path in found if path.is_file())

    def keep_only(self, names: Collection[str], wanted: Collection[str]) -> None:
        """Delete those of `names` that are not wanted, and what is left of writes that were cut short."""
        for name in names:
            if name not in wanted:
                self.delete(name)
        if (self._folder / "staging").is_dir():
            self._staging.sweep()

    def _make_room(self, name: str) -> None:
        """Delete the oldest beside that name, until the rest is small enough."""
        found = []
        for other in self.names():
            try:
                stat = (self._folder / other).stat()
            except FileNotFoundError:
                continue
            found.append((other == name, stat.st_mtime_ns, stat.st_size, other))
        total = sum(size for _, _, size, _ in found)
        for _, _, size, other in sorted(found):
            if total <= self._most_bytes:
                break
            self.delete(other)
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


if TYPE_CHECKING:

    def _meets(place: TrainingPlace) -> Checkpoints:
        return place
