"""The registry: one writer commits, any number of readers on any machine see the old state or the new.

A commit writes the router's weights, the manifest, the snapshot's root and last the head. The head's replacement IS
the commit: nothing else is looked at to know what is in force. A crash before it leaves files that nothing names.
What this module does not know: how anything in the files is used; what the state means.
"""

import hashlib
from collections.abc import Collection, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from registry.adapters import Adapter, AdapterFacts, AdapterStore
from registry.disk import Disk
from registry.errors import (
    CommitConflict,
    DamagedSnapshot,
    DigestMismatch,
    NewerHome,
    OtherBase,
    Overtaken,
    RegistryError,
    StaleWriter,
    UnknownManifest,
)
from registry.folders import FolderStore
from registry.head import NOTHING, Head, HeadFile, way_back
from registry.history import Chain, History, Link
from registry.layout import Layout, SnapshotName
from registry.manifest import Manifest, Placed, Route
from registry.pruning import Pruning
from registry.retention import Keeping
from registry.routers import place_weights, read_weights
from registry.segments import SegmentStore
from registry.snapshots import Epoch, Snapshot
from registry.storage import Storage
from registry.wholeness import Wholeness

_FAULTS_TOLD = 3
"""Of a snapshot that is passed over: what else is wrong with it is for whoever checks the home."""


class Registry:
    """The files under one root. Cheap to open; safe to open in as many processes as needed.

    `lineage` is the home's random name; `segments` are the files that snapshots name, `states` and `bases` the folders
    that a training leaves beside adapters; `history` reads what led to what is in force.
    """

    def __init__(self, where: Path | Storage, *, writer: bool = False) -> None:
        """Open, and create where there is nothing. `writer` also sweeps what interrupted writes have left behind.

        Raises `OldHome` or `NewerHome` where the files are of a version that this one does not read.
        """
        self.storage: Storage = Disk(where) if isinstance(where, Path) else where
        self._layout = Layout(self.storage)
        self._layout.create()
        self.root = self.storage.root
        self._adapters = AdapterStore(self.storage)
        self._head = HeadFile(self._layout)
        self.lineage = self._head.create()
        self.segments = SegmentStore(self._layout)
        self.states = FolderStore(self.storage, "states")
        self.bases = FolderStore(self.storage, "bases")
        self.history = History(self._layout, self.lineage)
        self._placed, self._named = "", frozenset[str]()
        if writer:
            self.storage.sweep()

    # Adapters

    def add_adapter(
        self, domain: str, version: int, folder: Path | None, facts: AdapterFacts, exam: bytes = b""
    ) -> Adapter:
        """Copy a PEFT folder in under its immutable name, whole or not at all; see `AdapterStore.add`."""
        return self._adapters.add(domain, version, folder, facts, exam)

    def route(self, name: str, *, pinned: bool = False) -> Route:
        """The entry of a manifest that puts a version in service, with those that it was judged beside; raises
        UnknownAdapter."""
        adapter = self.adapter(name)
        return adapter.route(map(self.adapter, adapter.facts.beside), pinned=pinned)

    def adapters(self, domain: str | None = None) -> list[Adapter]:
        """All adapters, rejected ones included, by domain and version; those of one domain if it is named."""
        return self._adapters.select(domain)

    def survey(self, domain: str | None = None) -> tuple[list[Adapter], dict[str, RegistryError]]:
        """All adapters that can be read, and by name what is wrong with the others; `adapters` raises for those."""
        return self._adapters.survey(domain)

    def numbered(self, domain: str, version: int) -> Adapter | None:
        """The version of the domain with that number, None if there is none; no other is read."""
        return self._adapters.numbered(domain, version)

    def has_version(self, domain: str, version: int) -> bool:
        """Whether there is a version of the domain with that number, readable or not."""
        return self._adapters.has_version(domain, version)

    def newest_version(self, domain: str) -> int:
        """The highest number that was given to a version of the domain, readable or not; 0 where there is none."""
        return self._adapters.newest_version(domain)

    def adapter(self, name: str) -> Adapter:
        """The adapter of that full name; raises UnknownAdapter."""
        return self._adapters.get(name)

    # Commits

    def begin_epoch(self) -> Epoch:
        """Begin a run of the writer, durably: every earlier run can commit nothing more."""
        with self.storage.exclusive():
            epoch = self._head.begin()
            self._head.fence(epoch)
            return epoch

    def epoch(self) -> Epoch | None:
        """The newest run of the writer, None before the first; DigestMismatch if it can't be told."""
        return self._head.epoch()

    def head(self) -> Head:
        """What is in force, all zero before the first commit; DamagedSnapshot, with the way on, if it can't be read or
        is another home's."""
        return self._head.read()

    def next_number(self) -> int:
        """The number for the next manifest."""
        return self.head().issued + 1

    def commit(
        self,
        state: Mapping[str, Any],
        segments: Collection[str],
        *,
        epoch: Epoch,
        parent: str,
        manifest: Manifest | None = None,
        weights: bytes | None = None,
    ) -> tuple[Head, Manifest | None]:
        """Put a state of the router in force, durably and in one step, with `manifest` where one is given.

        `state` is JSON, `segments` names all files that it refers to; `parent` is the digest of the snapshot before.
        `weights` are the router's for the manifest; None keeps the file that `manifest.router` names, or no router. The
        same commit again, after an interruption, returns what was committed, the manifest with its router's file named.

        Raises StaleWriter where a later run has begun, CommitConflict where snapshot or manifest do not follow what is
        in force, UnknownAdapter or DigestMismatch if what the manifest adds is not there.
        """
        with self.storage.exclusive():
            # In this order: a run that begins after the head was read changes it.
            head, tag = self._head.read_tagged()
            self._check_epoch(epoch)
            complete = self._with_router(manifest, weights) if manifest is not None else None
            if head.snapshot_digest != parent:
                return self._repeated(head, state, segments, epoch, parent, complete)
            if complete is not None:
                self._check_manifest(complete, head)
            # What the snapshot before names is kept as long as that is in force: a bucket would be asked for each.
            for name in segments if head.snapshot_digest != self._placed else {*segments} - self._named:
                self.segments.size(name)
            snapshot = self._next(head, head.issued_snapshot + 1, state, segments, epoch, complete)
            content = snapshot.to_bytes()
            after = head.followed_by(snapshot, hashlib.sha256(content).hexdigest())
            if weights is not None and complete is not None and complete.router is not None:
                place_weights(self._layout, complete.router, weights)
            keep = self.storage.keep
            if complete is not None:
                named = self._layout.manifest(complete.number, complete.digest())
                keep(named.key, [complete.to_json().encode()], complete.digest())
            keep(self._layout.snapshot(after.snapshot, after.snapshot_digest).key, [content], after.snapshot_digest)
            try:
                self._head.place(after, tag)
            except Overtaken as error:
                self._check_epoch(epoch)
                raise CommitConflict(f"{error}; commit after what is in force") from error
            self._placed, self._named = after.snapshot_digest, frozenset(segments)
            return after, complete

    def go_back(self, to: int | None = None) -> tuple[Snapshot, list[str]]:
        """Put an earlier snapshot in force, as a person's decision: `to`, or the newest whole one before the present.

        Whole is one whose root, segments, manifest, weights and versions are what was written. Returns it, and why
        newer ones were passed over, in lines. What was committed after it is no longer in force; numbers of snapshots
        and manifests stay given. Raises RegistryError where no such snapshot is whole, naming what is damaged. The
        running writer, if there is one, can commit nothing more.
        """
        with self.storage.exclusive():
            tag = self._head.tag()
            links, issued = self._behind()
            wholeness = self.wholeness()
            passed_over: list[str] = []
            for name, found in links:
                if to not in (None, name.number):
                    continue
                faults = wholeness.faults(found)
                if not faults and isinstance(found, Snapshot):
                    self._head.begin()
                    self._head.place(issued.followed_by(found, name.digest), tag)
                    return found, passed_over
                more = f"; and {len(faults) - _FAULTS_TOLD} more" if len(faults) > _FAULTS_TOLD else ""
                passed_over.append(f"snapshot {name.number} is not whole: {'; '.join(faults[:_FAULTS_TOLD])}{more}")
        kept = [name.number for name, _ in reversed(links)]
        wanted = "whole snapshot before the one in force" if to is None else f"whole snapshot {to} before it"
        why = f"; {'; '.join(passed_over)}" if passed_over else ""
        raise RegistryError(f"{self.root}: there is no {wanted}; kept are {kept}{why}: restore a backup")

    def _behind(self) -> tuple[list[Link], Head]:
        """The snapshots before the one in force, newest first, and a head with the highest numbers ever given."""
        names, numbers = self._layout.snapshot_names(), [number for number, _ in self._layout.manifests()]
        try:
            head = self.head()
            links = list(self.history.line(head.previous, head.snapshot))
        except NewerHome:
            raise
        except RegistryError:
            # Nothing says which line was in force: numbers grow from commit to commit, also along a line that was left.
            head, links = NOTHING, list(self.history.newest_line())
        named = [found.manifest for _, found in links if isinstance(found, Snapshot)]
        return links, replace(
            head,
            issued=max([head.issued, *numbers, *named]),
            issued_snapshot=max([head.issued_snapshot, *(name.number for name in names)]),
        )

    def wholeness(self) -> Wholeness:
        """A pass over what snapshots and manifests need, read anew."""
        stores = (AdapterStore(self.storage), self.states, self.bases)
        return Wholeness(self._layout, self.history, self.segments, *stores)

    # What is in force

    def current(self) -> Manifest | None:
        """The manifest in force; None before the first. Raises DamagedSnapshot, with the way on, if it is damaged."""
        while True:
            head = self.head()
            if head.manifest == 0:
                return None
            path = self._layout.manifest(head.manifest, head.manifest_digest)
            try:
                return self.history.manifest(head.manifest, head.manifest_digest)
            except FileNotFoundError as error:
                # Else a commit and a prune have passed in between: look again.
                if self.head() == head:
                    raise DamagedSnapshot(
                        f"{path}: expected the manifest in force, got no file; {self._way_back}"
                    ) from error
            except DigestMismatch as error:
                if self.head() == head:
                    raise DamagedSnapshot(f"{error}; {self._way_back}") from error

    def manifest(self, number: int) -> Manifest:
        """The manifest in force or one before it; raises UnknownManifest if there is none of that number, or it can't
        be read any more."""
        current = self.current()
        if current is not None and number == current.number:
            return current
        # Others of that number belong to an interrupted commit, or to a line that was left.
        chain = self.history.chain(current)
        for manifest in (*chain.manifests, *chain.below):
            if manifest.number == number:
                return manifest
        if number in chain.damaged:
            raise UnknownManifest(f"manifest {number}: {chain.damaged[number]}; restore the file from a backup")
        newest = f"the current is {current.number}" if current else "there is none yet"
        raise UnknownManifest(f"manifest {number}: not in {self.root}; {newest}, older ones are pruned")

    def manifests(self) -> list[Manifest]:
        """The manifest in force and those before it, by their parents, as far as they are kept and whole; oldest first.

        `chain` says what is wrong where they end early.
        """
        return self.chain().manifests

    def chain(self) -> Chain:
        """The manifest in force and those before it, damaged ones told apart; DamagedSnapshot, with the way on, where
        the one in force is damaged."""
        return self.history.chain(self.current())

    def snapshot(self, number: int | None = None) -> Snapshot | None:
        """The router's state in force, checked to the last byte, or an earlier one that is kept, by number.

        None is returned before the first commit. Raises DamagedSnapshot, with the way on, where it is damaged or
        another home's, NewerHome where a later version wrote it, and UnknownManifest for a number that is not kept.
        """
        if number is not None:
            return self._earlier(number)
        while True:
            head = self.head()
            if head.snapshot == 0:
                return None
            name = SnapshotName(head.snapshot, head.snapshot_digest)
            try:
                return self.history.snapshot(name)
            except FileNotFoundError as error:
                if self.head() == head:
                    raise DamagedSnapshot(
                        f"{self._layout.snapshot(*name)}: expected the snapshot in force, got no file; {self._way_back}"
                    ) from error
            except DigestMismatch as error:
                raise DamagedSnapshot(f"{error}; {self._way_back}") from error

    def _earlier(self, number: int) -> Snapshot:
        head = self.head()
        kept: list[int] = []
        for name, found in self.history.line(head.snapshot_digest, head.snapshot + 1):
            if name.number == number and isinstance(found, RegistryError):
                raise found
            if name.number == number and isinstance(found, Snapshot):
                return found
            kept.insert(0, name.number)
        raise UnknownManifest(f"snapshot {number}: not in {self.root}; kept are {kept}")

    def weights(self, manifest: Manifest) -> bytes:
        """The router's weights that `manifest` routes with; raises DigestMismatch, or RegistryError if it has none."""
        if manifest.router is None:
            raise RegistryError(f"manifest {manifest.number}: has no router; nothing was learned yet")
        return read_weights(self._layout, manifest.number, manifest.router)

    # What is forgotten

    def prune(
        self, keep_snapshots: int = 2, keep_manifests: int = 20, keep_versions: int = 3, serving: int | None = None
    ) -> list[str]:
        """Remove what `retention` lets go; returns the paths removed, relative to the root.

        What is in force always stays. `keep_versions` are kept of each domain for rollbacks, however many manifests
        were published since; `serving` is the lowest manifest that a replica serves, None where there are no replicas.
        An adapter that can't be read is left to whoever restores it, unless its domain was removed. Where what is in
        force is damaged, nobody can tell what it needs: nothing is removed then, and DamagedSnapshot raised. What is
        damaged among what was before it stops nothing, and stays as long as what is of its time.
        """
        if min(keep_snapshots, keep_manifests, keep_versions) < 1:
            raise RegistryError(
                f"prune: expected to keep at least 1, got {keep_snapshots}, {keep_manifests} and {keep_versions}"
            )
        with self.storage.exclusive():
            head = self.head()
            if self.snapshot() is None:
                return []
            chain = self.chain()
            line = list(self.history.line(head.snapshot_digest, head.snapshot + 1))
            keeping = Keeping(keep_snapshots, keep_manifests, keep_versions, serving)
            pruning = Pruning(self._layout, self.segments, (self.states, self.bases))
            return pruning.prune(head, line, chain, *self.survey(), keeping)

    # Within a commit

    @property
    def _way_back(self) -> str:
        return way_back(self.root)

    def _check_epoch(self, epoch: Epoch) -> None:
        newest = self.epoch()
        if newest is not None and newest != epoch:
            raise StaleWriter(
                f"{self.root}: run {epoch.counter} ({epoch.name}) may commit nothing more: run {newest.counter} "
                f"({newest.name}) has begun since; stop one of the two"
            )

    def _check_manifest(self, manifest: Manifest, head: Head) -> None:
        current = self.current()
        # Not what it would be written as now: a later version may add fields.
        expected = (current.number, head.manifest_digest) if current else (None, "")
        if (manifest.parent, manifest.parent_digest) != expected or manifest.number <= head.issued:
            stands = f"manifest {expected[0]} ({expected[1][:8]})" if current else "no manifest"
            raise CommitConflict(
                f"{self.root}: manifest {manifest.number} with parent {manifest.parent} ({manifest.parent_digest[:8]}) "
                f"does not follow: in force is {stands}, numbers are given up to {head.issued}; read it and commit the "
                "next number"
            )
        self._check_routes(manifest, current)
        for name in set(manifest.states.values()) - set(current.states.values() if current else ()):
            self.states.verify(name)
        if manifest.base.delta and (current is None or current.base.delta != manifest.base.delta):
            self.bases.verify(manifest.base.delta)

    def _next(
        self,
        head: Head,
        number: int,
        state: Mapping[str, Any],
        segments: Collection[str],
        epoch: Epoch,
        manifest: Manifest | None,
    ) -> Snapshot:
        return Snapshot(
            number=number,
            parent=head.snapshot_digest,
            manifest=manifest.number if manifest else head.manifest,
            manifest_digest=manifest.digest() if manifest else head.manifest_digest,
            epoch=epoch,
            lineage=self.lineage,
            state=dict(state),
            segments=frozenset(segments),
        )

    def _repeated(
        self,
        head: Head,
        state: Mapping[str, Any],
        segments: Collection[str],
        epoch: Epoch,
        parent: str,
        manifest: Manifest | None,
    ) -> tuple[Head, Manifest | None]:
        """What is in force, if it is this very commit: an earlier try got as far as that."""
        before = self._before(head, parent)
        if before is not None:
            again = self._next(before, head.snapshot, state, segments, epoch, manifest).to_bytes()
            if hashlib.sha256(again).hexdigest() == head.snapshot_digest:
                # The earlier try may have died before its head was durable.
                self._layout.create()
                return head, manifest
        raise CommitConflict(
            f"{self.root}: a commit after snapshot {parent[:8] or '(none)'} does not follow: in force is snapshot "
            f"{head.snapshot} ({head.snapshot_digest[:8] or 'none'}); read it and commit after that"
        )

    def _before(self, head: Head, parent: str) -> Head | None:
        if head.snapshot == 0:
            return None
        if parent == "":
            return NOTHING
        try:
            found = next(self.history.line(parent, head.snapshot), None)
        except FileNotFoundError:
            return None
        if found is None or found.name.digest != parent or not isinstance(found.found, Snapshot):
            return None
        return head.followed_by(found.found, parent)

    def _with_router(self, manifest: Manifest, weights: bytes | None) -> Manifest:
        router = manifest.router
        if weights is None:
            if router is not None:
                read_weights(self._layout, manifest.number, router)
            return manifest
        if router is None:
            raise RegistryError(
                f"manifest {manifest.number}: weights were given, but no router; name its fingerprint in the manifest"
            )
        digest = hashlib.sha256(weights).hexdigest()
        if router.digest and router.digest != digest:
            raise DigestMismatch(
                f"manifest {manifest.number}: expected router weights with sha256 {router.digest}, got {digest}; "
                "leave the digest out, commit fills it in"
            )
        path = self._layout.router(digest).key
        named = router.model_copy(update={"path": path, "digest": digest})
        return manifest.model_copy(update={"router": named})

    def _check_routes(self, manifest: Manifest, current: Manifest | None) -> None:
        # What is in service was checked when it came there; where it was damaged since, the other domains go on.
        served = current.routes if current is not None and current.base.weights == manifest.base.weights else {}
        for domain, route in manifest.routes.items():
            if served.get(domain) != route:
                for placed in route.segments.values():
                    self._check_placed(manifest, domain, placed)

    def _check_placed(self, manifest: Manifest, domain: str, placed: Placed) -> None:
        # Read anew.
        adapter = AdapterStore(self.storage).get(placed.adapter)
        if adapter.digest != placed.digest:
            raise DigestMismatch(
                f"manifest {manifest.number}: route of {domain} expects {placed.adapter} with sha256 "
                f"{placed.digest}, got {adapter.digest}; take the route from the adapter"
            )
        if adapter.facts.status != "accepted":
            raise RegistryError(
                f"manifest {manifest.number}: route of {domain} names {placed.adapter}, which was rejected "
                f"({adapter.facts.reason}); route to an accepted version"
            )
        judged_on = (adapter.facts.base_digest, adapter.facts.base_delta)
        if judged_on != manifest.base.weights:
            raise OtherBase(
                f"manifest {manifest.number}: {placed.adapter} was judged on base {_base_name(*judged_on)}, the "
                f"manifest is for {_base_name(*manifest.base.weights)}; a manifest never mixes the two"
            )
        adapter.verify()


def _base_name(digest: str, delta: str) -> str:
    name = digest[:8] or "without a digest"
    return f"{name} changed by {delta[:8]}" if delta else name
