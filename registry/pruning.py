"""Removing what `retention` lets go, in an order that an interruption may cut anywhere.

From what refers to what is referred to, so that orphans stay and nothing dangles. Files that are younger than the head
are left alone, as a commit that is on its way may name them. Whoever calls holds the registry's lock.
"""

from collections.abc import Iterable, Sequence
from pathlib import Path

from registry.adapters import Adapter
from registry.atomic import Staging, discard, remove_folder, sync_folder
from registry.errors import RegistryError
from registry.folders import FolderStore
from registry.head import Head
from registry.history import Chain, Link
from registry.layout import Layout
from registry.retention import Keeping, retain
from registry.segments import SegmentStore
from registry.snapshots import Snapshot


class Pruning:
    """The files of one registry, to be thinned out; `folders` keep what trainings leave beside adapters."""

    def __init__(
        self, layout: Layout, staging: Staging, segments: SegmentStore, folders: Sequence[FolderStore]
    ) -> None:
        self._layout, self._staging, self._segments, self._folders = layout, staging, segments, folders

    def prune(
        self,
        head: Head,
        line: Sequence[Link],
        chain: Chain,
        adapters: Sequence[Adapter],
        unreadable: Iterable[str],
        keeping: Keeping,
    ) -> list[str]:
        """Remove what goes; returns the paths removed, relative to the root. `line` is newest first, `unreadable` are
        the names of versions of which nothing else is known."""
        snapshots = [found for _, found in reversed(line) if isinstance(found, Snapshot)]
        stand = [(snapshot.number, snapshot.manifest) for snapshot in snapshots]
        kept = retain([*chain.below, *chain.manifests], stand, adapters, keeping, chain.damaged)
        oldest = min(kept.snapshots)
        # A damaged root may be restored as long as what is of its time is kept.
        standing = {
            name
            for name, found in line
            if name.number in kept.snapshots or (isinstance(found, RegistryError) and name.number > oldest)
        }
        segments = {name for each in snapshots if each.number in kept.snapshots for name in each.segments}
        roots = [name for name in self._layout.snapshot_names() if name.number <= head.snapshot]
        numbers = [number for number in self._layout.manifest_numbers() if number <= head.manifest]
        removed = self._remove(
            [
                *(self._layout.snapshot(*name) for name in roots if name not in standing),
                *(self._layout.manifest(number) for number in numbers if number not in kept.manifests),
            ]
        )
        weights = (path for path in self._layout.routers.iterdir() if not kept.has_weights(self._layout.relative(path)))
        unnamed = (self._segments.path(name) for name in self._segments.names() if name not in segments)
        removed += self._remove(self._settled([*weights, *unnamed]))
        folders = [adapter.path for adapter in adapters if adapter.name not in kept.adapters]
        folders += [self._layout.adapters / name for name in unreadable if kept.is_of_removed(name)]
        stores = [store for store in self._folders if not store.is_held]
        left = [store.path(name) for store in stores for name in store.names() if name not in kept.folders]
        folders += self._settled(left)
        for folder in folders:
            remove_folder(self._staging, folder)
        return removed + [self._layout.relative(folder) for folder in folders]

    def _settled(self, paths: Iterable[Path]) -> list[Path]:
        """Those that were there before the head."""
        committed = self._layout.head.stat().st_mtime_ns
        return [path for path in paths if path.stat().st_mtime_ns < committed]

    def _remove(self, doomed: Sequence[Path]) -> list[str]:
        for path in doomed:
            discard(path)
        for folder in {path.parent for path in doomed}:
            sync_folder(folder)
        return [self._layout.relative(path) for path in doomed]
