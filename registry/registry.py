"""The registry: one writer commits, any number of readers on any machine see the old state or the new.

A commit writes the router's weights, the manifest, the snapshot's root and last the head. The head's replacement IS
the commit: nothing else is looked at to know what is in force. A crash before it leaves files that nothing names.
What this module does not know: how anything in the files is used; what the state means.
"""

import hashlib
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from registry.adapters import Adapter, AdapterFacts, AdapterStore
from registry.atomic import Staging, exclusive, replace_file, sync_folder
from registry.errors import (
    CommitConflict,
    DamagedSnapshot,
    DigestMismatch,
    RegistryError,
    StaleWriter,
    UnknownManifest,
)
from registry.head import NOTHING, Head, HeadFile, way_back
from registry.layout import Layout
from registry.manifest import Manifest, RouterRef
from registry.pruning import Pruning
from registry.retention import Keeping
from registry.segments import SegmentStore
from registry.snapshots import Epoch, Snapshot


class Registry:
    """The files under one root. Cheap to open; safe to open in as many processes as needed.

    `lineage` is the home's random name; `segments` are the files that snapshots name.
    """

    def __init__(self, root: Path, *, writer: bool = False) -> None:
        """Open, and create where there is nothing. `writer` also sweeps what interrupted writes have left behind.

        Raises `OldHome` where the files are of a version that this one does not read.
        """
        self._layout = Layout(Path(root))
        self._layout.create()
        self.root = self._layout.root
        self._staging = Staging(self._layout.staging)
        self._adapters = AdapterStore(self._layout.adapters, self._staging, self._layout.lock)
        self._head = HeadFile(self._layout, self._staging)
        self.lineage = self._head.create()
        self.segments = SegmentStore(self._layout, self._staging)
        if writer:
            self._staging.sweep()

    # Adapters

    def add_adapter(self, domain: str, version: int, folder: Path, facts: AdapterFacts) -> Adapter:
        """Copy a PEFT folder in under its immutable name, whole or not at all; see `AdapterStore.add`."""
        return self._adapters.add(domain, version, folder, facts)

    def adapters(self, domain: str | None = None) -> list[Adapter]:
        """All adapters, rejected ones included, by domain and version; those of one domain if it is named."""
        return self._adapters.select(domain)

    def survey(self) -> tuple[list[Adapter], dict[str, RegistryError]]:
        """All adapters that can be read, and by name what is wrong with the others; `adapters` raises for those."""
        return self._adapters.survey()

    def newest_version(self, domain: str) -> int:
        """The highest number that was given to a version of the domain, readable or not; 0 where there is none."""
        return self._adapters.newest_version(domain)

    def adapter(self, name: str) -> Adapter:
        """The adapter of that full name; raises UnknownAdapter."""
        return self._adapters.get(name)

    # Commits

    def begin_epoch(self) -> Epoch:
        """Begin a run of the writer, durably: every earlier run can commit nothing more."""
        with exclusive(self._layout.lock):
            return self._head.begin()

    def head(self) -> Head:
        """What is in force, all zero before the first commit; DamagedSnapshot, with the way on, if it can't be read."""
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
        with exclusive(self._layout.lock):
            head = self.head()
            self._check_epoch(epoch)
            complete = self._with_router(manifest, weights) if manifest is not None else None
            if head.snapshot_digest != parent:
                return self._repeated(head, state, segments, epoch, parent, complete)
            if complete is not None:
                self._check_manifest(complete, head)
            for name in segments:
                self.segments.size(name)
            snapshot = self._next(head, state, segments, epoch, complete)
            content = snapshot.to_bytes()
            after = _head_of(snapshot, hashlib.sha256(content).hexdigest(), head.issued)
            if weights is not None and complete is not None and complete.router is not None:
                self._place_weights(complete.router, weights)
            if complete is not None:
                replace_file(self._staging, self._layout.manifest(complete.number), complete.to_json().encode())
            replace_file(self._staging, self._layout.snapshot(after.snapshot, after.snapshot_digest), content)
            self._head.place(after)
            return after, complete

    def go_back(self, to: int | None = None) -> Snapshot:
        """Put an earlier snapshot in force, as a person's decision: `to`, or the newest whole one before the present.

        What was committed after it is no longer in force; numbers of manifests stay given. Raises RegistryError where
        no such snapshot is whole. The running writer, if there is one, can commit nothing more.
        """
        with exclusive(self._layout.lock):
            issued = max(self._layout.manifest_numbers(), default=0)
            try:
                head = self.head()
                issued = max(issued, head.issued)
                found = self._line(head.previous)
            except DamagedSnapshot:
                # Nothing says which line was in force: the youngest whole one is.
                names = self._layout.snapshot_names()
                youngest = max(names, key=lambda name: self._layout.snapshot(*name).stat().st_mtime_ns, default=None)
                found = self._line(youngest.digest) if youngest else []
            for digest, snapshot in reversed(found):
                if to in (None, snapshot.number) and self._has_segments(snapshot):
                    self._head.begin()
                    self._head.place(_head_of(snapshot, digest, issued))
                    return snapshot
        kept = [snapshot.number for _, snapshot in found]
        wanted = "whole snapshot before the one in force" if to is None else f"whole snapshot {to} before it"
        raise RegistryError(f"{self.root}: there is no {wanted}; kept are {kept}: restore a backup")

    def _has_segments(self, snapshot: Snapshot) -> bool:
        try:
            return all(self.segments.size(name) > 0 for name in snapshot.segments)
        except RegistryError:
            return False

    # What is in force

    def current(self) -> Manifest | None:
        """The manifest in force; None before the first. Raises DamagedSnapshot, with the way on, if it is damaged."""
        while True:
            head = self.head()
            if head.manifest == 0:
                return None
            path = self._layout.manifest(head.manifest)
            try:
                text = path.read_bytes()
            except FileNotFoundError as error:
                if self.head() != head:
                    # A commit and a prune have passed in between: look again.
                    continue
                raise DamagedSnapshot(
                    f"{path}: expected the manifest in force, got no file; {self._way_back}"
                ) from error
            found = hashlib.sha256(text).hexdigest()
            if found == head.manifest_digest:
                return Manifest.from_json(text, str(path))
            if self.head() == head:
                raise DamagedSnapshot(f"{path}: expected sha256 {head.manifest_digest}, got {found}; {self._way_back}")

    def manifest(self, number: int) -> Manifest:
        """A committed manifest; raises UnknownManifest if it never was or is pruned."""
        current = self.current()
        if current is not None and number == current.number:
            return current
        path = self._layout.manifest(number)
        try:
            # A file above the present number belongs to an interrupted commit, or to a line that was left.
            if current is None or number > current.number:
                raise FileNotFoundError
            return Manifest.from_json(path.read_bytes(), str(path))
        except FileNotFoundError as error:
            newest = f"the current is {current.number}" if current else "there is none yet"
            raise UnknownManifest(f"manifest {number}: not in {self.root}; {newest}, older ones are pruned") from error

    def manifests(self) -> list[Manifest]:
        """The manifest in force and those before it, by their parents, as far as they are kept; oldest first."""
        found: list[Manifest] = []
        manifest = self.current()
        while manifest is not None:
            found.append(manifest)
            try:
                before = None if manifest.parent is None else self.manifest(manifest.parent)
            except UnknownManifest:
                break
            manifest = before if before is None or before.digest() == manifest.parent_digest else None
        return found[::-1]

    def snapshot(self, number: int | None = None) -> Snapshot | None:
        """The router's state in force, checked to the last byte, or an earlier one that is kept, by number.

        None is returned before the first commit. Raises DamagedSnapshot, with the way on, where it is damaged, and
        UnknownManifest for a number that is not kept.
        """
        if number is not None:
            names = [name for name in self._layout.snapshot_names() if name.number == number]
            if not names or number > self.head().snapshot:
                kept = sorted({name.number for name in self._layout.snapshot_names()})
                raise UnknownManifest(f"snapshot {number}: not in {self.root}; kept are {kept}")
            return Snapshot.read(self._layout.snapshot(*names[-1]), names[-1].digest)
        while True:
            head = self.head()
            if head.snapshot == 0:
                return None
            path = self._layout.snapshot(head.snapshot, head.snapshot_digest)
            try:
                return Snapshot.read(path, head.snapshot_digest)
            except FileNotFoundError as error:
                if self.head() == head:
                    raise DamagedSnapshot(
                        f"{path}: expected the snapshot in force, got no file; {self._way_back}"
                    ) from error
            except DigestMismatch as error:
                raise DamagedSnapshot(f"{error}; {self._way_back}") from error

    def weights(self, manifest: Manifest) -> bytes:
        """The router's weights that `manifest` routes with; raises DigestMismatch, or RegistryError if it has none."""
        if manifest.router is None:
            raise RegistryError(f"manifest {manifest.number}: has no router; nothing was learned yet")
        return self._read_weights(manifest.number, manifest.router)

    # What is forgotten

    def prune(
        self, keep_snapshots: int = 2, keep_manifests: int = 20, keep_versions: int = 3, serving: int | None = None
    ) -> list[str]:
        """Remove what `retention` lets go; returns the paths removed, relative to the root.

        What is in force always stays. `keep_versions` are kept of each domain for rollbacks, however many manifests
        were published since; `serving` is the lowest manifest that a replica serves, None where there are no replicas.
        An adapter that can't be read is left to whoever restores it.
        """
        if min(keep_snapshots, keep_manifests, keep_versions) < 1:
            raise RegistryError(
                f"prune: expected to keep at least 1, got {keep_snapshots}, {keep_manifests} and {keep_versions}"
            )
        with exclusive(self._layout.lock):
            head = self.head()
            if head.snapshot == 0:
                return []
            adapters, _ = self.survey()
            keeping = Keeping(keep_snapshots, keep_manifests, keep_versions, serving)
            pruning = Pruning(self._layout, self._staging, self.segments)
            return pruning.prune(head, self._line(head.snapshot_digest), self.manifests(), adapters, keeping)

    def _line(self, digest: str) -> list[tuple[str, Snapshot]]:
        """The snapshot of that digest and those it descends from, as far as they are kept and whole; oldest first."""
        names = {name.digest: name for name in self._layout.snapshot_names()}
        found: list[tuple[str, Snapshot]] = []
        while digest in names:
            try:
                snapshot = Snapshot.read(self._layout.snapshot(*names[digest]), digest)
            except (RegistryError, FileNotFoundError):
                break
            found.append((digest, snapshot))
            digest = snapshot.parent
        return found[::-1]

    # Within a commit

    @property
    def _way_back(self) -> str:
        return way_back(self.root)

    def _check_epoch(self, epoch: Epoch) -> None:
        newest = self._head.epoch()
        if newest is not None and newest != epoch:
            raise StaleWriter(
                f"{self.root}: run {epoch.counter} ({epoch.name}) may commit nothing more: run {newest.counter} "
                f"({newest.name}) has begun since; stop one of the two"
            )

    def _check_manifest(self, manifest: Manifest, head: Head) -> None:
        current = self.current()
        expected = (current.number, current.digest()) if current else (None, "")
        if (manifest.parent, manifest.parent_digest) != expected or manifest.number <= head.issued:
            stands = f"manifest {expected[0]} ({expected[1][:8]})" if current else "no manifest"
            raise CommitConflict(
                f"{self.root}: manifest {manifest.number} with parent {manifest.parent} ({manifest.parent_digest[:8]}) "
                f"does not follow: in force is {stands}, numbers are given up to {head.issued}; read it and commit the "
                "next number"
            )
        self._check_routes(manifest, current)

    def _next(
        self,
        head: Head,
        state: Mapping[str, Any],
        segments: Collection[str],
        epoch: Epoch,
        manifest: Manifest | None,
    ) -> Snapshot:
        return Snapshot(
            number=head.snapshot + 1,
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
            again = self._next(before, state, segments, epoch, manifest).to_bytes()
            if hashlib.sha256(again).hexdigest() == head.snapshot_digest:
                sync_folder(self.root)
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
            name = next(name for name in self._layout.snapshot_names() if name.digest == parent)
            snapshot = Snapshot.read(self._layout.snapshot(*name), parent)
        except (StopIteration, FileNotFoundError, RegistryError):
            return None
        return _head_of(snapshot, parent, head.issued)

    def _place_weights(self, router: RouterRef, weights: bytes) -> None:
        path = self.root / router.path
        if not path.exists():
            replace_file(self._staging, path, weights)
        sync_folder(path.parent)

    def _with_router(self, manifest: Manifest, weights: bytes | None) -> Manifest:
        router = manifest.router
        if weights is None:
            if router is not None:
                self._read_weights(manifest.number, router)
            return manifest
        if router is None:
            raise RegistryError(
                f"manifest {manifest.number}: weights were given, but no router; name its fingerprint in the manifest"
            )
        digest = hashlib.sha256(weights).hexdigest()
        named = RouterRef(
            fingerprint=router.fingerprint,
            abstain_below=router.abstain_below,
            path=self._layout.relative(self._layout.router(digest)),
            digest=digest,
        )
        if router.digest and router.digest != named.digest:
            raise DigestMismatch(
                f"manifest {manifest.number}: expected router weights with sha256 {router.digest}, got {named.digest}; "
                "leave the digest out, commit fills it in"
            )
        return manifest.model_copy(update={"router": named})

    def _check_routes(self, manifest: Manifest, current: Manifest | None) -> None:
        served = set(current.routes.values()) if current else set()
        # What is in service was checked when it came there; where it was damaged since, the other domains go on.
        for domain, route in ((of, route) for of, route in manifest.routes.items() if route not in served):
            adapter = self.adapter(route.adapter)
            if adapter.digest != route.digest:
                raise DigestMismatch(
                    f"manifest {manifest.number}: route of {domain} expects {route.adapter} with sha256 "
                    f"{route.digest}, got {adapter.digest}; take the route from the adapter"
                )
            if adapter.facts.status != "accepted":
                raise RegistryError(
                    f"manifest {manifest.number}: route of {domain} names {route.adapter}, which was rejected "
                    f"({adapter.facts.reason}); route to an accepted version"
                )
            adapter.verify()

    def _read_weights(self, number: int, router: RouterRef) -> bytes:
        path = self.root / router.path
        try:
            content = path.read_bytes()
        except OSError as error:
            raise RegistryError(f"manifest {number}: router weights in {path}: {error}; restore the file") from error
        found = hashlib.sha256(content).hexdigest()
        if found != router.digest:
            raise DigestMismatch(
                f"manifest {number}: router weights in {path}: expected sha256 {router.digest}, got {found}; "
                "the file was changed: restore it"
            )
        return content


def _head_of(snapshot: Snapshot, digest: str, issued: int) -> Head:
    return Head(
        snapshot=snapshot.number,
        snapshot_digest=digest,
        manifest=snapshot.manifest,
        manifest_digest=snapshot.manifest_digest,
        previous=snapshot.parent,
        issued=max(issued, snapshot.manifest),
    )
