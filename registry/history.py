"""What led to what is in force: snapshots by their parents, and manifests by theirs, as far as they are kept.

Each is compared with the digest by which its successor, or its name, knows it. A damaged one ends neither line: what it
followed can't be told by digest any more, so what is older is found by its number. What this module does not know: what
is still needed, and whether what a snapshot names is whole.
"""

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

from registry.errors import DigestMismatch, RegistryError
from registry.layout import Layout, SnapshotName
from registry.manifest import Manifest
from registry.snapshots import Snapshot
from registry.storage import Place


class Link(NamedTuple):
    """One root of a line: what its file holds, or why that can't be believed."""

    name: SnapshotName
    found: Snapshot | RegistryError


@dataclass(frozen=True)
class Chain:
    """Manifests, oldest first."""

    manifests: list[Manifest]
    """The one in force and those before it, each by the digest that its successor names."""
    below: list[Manifest]
    """Older than one that is damaged or gone, so by number alone: some may be of a line that was left."""
    damaged: dict[int, RegistryError]
    """What is wrong with those that can't be believed, by number."""


class History:
    """The roots and manifests of one registry, read anew at each call."""

    def __init__(self, layout: Layout, lineage: str) -> None:
        self._layout, self._lineage = layout, lineage

    def snapshot(self, name: SnapshotName) -> Snapshot:
        """The snapshot in the root of that name; raises as `Snapshot.read` does, and DigestMismatch, naming both, where
        it is another home's."""
        path = self._layout.snapshot(*name)
        snapshot = Snapshot.read(path, name.digest)
        if snapshot.lineage != self._lineage:
            raise DigestMismatch(
                f"{path}: expected a snapshot of home {self._lineage}, got one of home {snapshot.lineage}"
            )
        return snapshot

    def line(self, digest: str, below: int, *, beyond_gaps: bool = True) -> Iterator[Link]:
        """The snapshot of that digest and those it descends from, newest first; all numbers are below `below`.

        After a damaged one comes the newest older one by number. One whose file is gone was pruned or lost: with
        `beyond_gaps` the same is done there, else the line ends.
        """
        names = {name.digest: name for name in self._layout.snapshot_names()}
        wanted: str | None = digest
        while wanted != "":
            # Numbers grow by one but where a person went back: so it is found where a listing does not have it yet.
            name = names.get(wanted, SnapshotName(below - 1, wanted)) if wanted is not None else None
            if name is None or name.number >= below:
                if wanted is not None and not beyond_gaps:
                    return
                older = [each for each in names.values() if each.number < below]
                name = max(older, key=self._age, default=None)
                if name is None:
                    return
            below = name.number + (name.digest not in names)
            try:
                snapshot = self.snapshot(name)
            except FileNotFoundError:
                # Pruned, perhaps since it was listed.
                if not beyond_gaps:
                    return
                wanted = None
            except RegistryError as error:
                yield Link(name, error)
                below, wanted = name.number, None
            else:
                yield Link(name, snapshot)
                below, wanted = name.number, snapshot.parent

    def newest_line(self) -> Iterator[Link]:
        """The snapshot of the highest number, whatever is in force, and those it descends from."""
        newest = max(self._layout.snapshot_names(), key=self._age, default=None)
        if newest is not None:
            yield from self.line(newest.digest, newest.number + 1)

    def manifest(self, number: int, digest: str) -> Manifest:
        """The manifest of that number; DigestMismatch unless its file has that sha256, RegistryError if it can't be
        read, FileNotFoundError if absent."""
        path = self._layout.manifest(number, digest)
        text = _text(path)
        found = hashlib.sha256(text).hexdigest()
        if found != digest:
            raise DigestMismatch(f"{path}: expected sha256 {digest}, got {found}")
        return Manifest.from_json(text, str(path))

    def chain(self, current: Manifest | None) -> Chain:
        """The manifest in force, `current`, and those before it."""
        manifests: list[Manifest] = []
        damaged: dict[int, RegistryError] = {}
        manifest = current
        while manifest is not None:
            manifests.append(manifest)
            parent, digest = manifest.parent, manifest.parent_digest
            manifest = None
            if parent is not None:
                try:
                    manifest = self.manifest(parent, digest)
                except FileNotFoundError:
                    pass
                except RegistryError as error:
                    damaged[parent] = error
        end = (manifests[-1].parent or 0) if manifests else 0
        below: list[Manifest] = []
        for number, path in self._layout.manifests():
            if number >= end:
                break
            try:
                below.append(Manifest.from_json(_text(path), str(path)))
            except FileNotFoundError:
                continue
            except RegistryError as error:
                damaged[number] = error
        return Chain(manifests[::-1], below, damaged)

    def _age(self, name: SnapshotName) -> tuple[int, float]:
        """Grows with the number; of two, as an interrupted commit leaves them, the later one was committed."""
        try:
            return name.number, self._layout.storage.state(self._layout.snapshot(*name).key).modified
        except OSError:
            return name.number, 0.0


def _text(path: Place) -> bytes:
    try:
        return path.read()
    except FileNotFoundError:
        raise
    except OSError as error:
        raise RegistryError(f"{path}: can't be read: {error}; mend the disk") from error
