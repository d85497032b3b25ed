"""Removing what `retention` lets go, in an order that an interruption may cut anywhere.

From what refers to what is referred to, so that orphans stay and nothing dangles. Files that are younger than the head
are left alone, as a commit that is on its way may name them. Whoever calls holds the registry's lock.
"""

from collections.abc import Iterable, Sequence

from registry.adapters import FOLDER, Adapter, number_key, parsed_name
from registry.errors import RegistryError
from registry.folders import FolderStore
from registry.head import Head
from registry.history import Chain, Link
from registry.layout import Layout
from registry.retention import Keeping, retain
from registry.segments import SegmentStore
from registry.snapshots import Snapshot
from registry.storage import Listed


class Pruning:
    """The files of one registry, to be thinned out; `folders` keep what trainings leave beside adapters."""

    def __init__(self, layout: Layout, segments: SegmentStore, folders: Sequence[FolderStore]) -> None:
        self._layout, self._storage, self._segments, self._folders = layout, layout.storage, segments, folders

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
        removed = self._remove(
            [
                *(self._layout.snapshot(*name).key for name in roots if name not in standing),
                *(
                    place.key
                    for number, place in self._layout.manifests()
                    if number <= head.manifest and number not in kept.manifests
                ),
            ]
        )
        weights = (entry for entry in self._storage.entries("routers") if not kept.has_weights(entry.key))
        unnamed = (entry for name, entry in self._segments.entries().items() if name not in segments)
        removed += self._remove(self._settled([*weights, *unnamed]))
        versions = [adapter.name for adapter in adapters if adapter.name not in kept.adapters]
        versions += [name for name in unreadable if kept.is_of_removed(name)]
        stores = [store for store in self._folders if not store.is_held]
        left = [entry for store in stores for entry in store.entries() if entry.name not in kept.folders]
        folders = [*(f"{FOLDER}/{name}" for name in versions), *self._settled(left)]
        for folder in folders:
            self._storage.remove_folder(folder)
        if self._storage.keeps_all:
            self._storage.remove([number_key(*found) for name in versions if (found := parsed_name(name))])
        return removed + folders

    def _settled(self, entries: Iterable[Listed]) -> list[str]:
        """The keys of those that were there before the head."""
        committed = self._storage.state(self._layout.head.key).modified
        return [entry.key for entry in entries if entry.modified < committed]

    def _remove(self, keys: list[str]) -> list[str]:
        self._storage.remove(keys)
        return keys
