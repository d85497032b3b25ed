"""The registry: one writer publishes, any number of readers on any machine see the old state or the new.

A commit writes the router's weights, the manifest and last the snapshot; the rename of the snapshot IS the commit. A
crash before it leaves files of a number that was never committed; they are not listed, and the next commit of that
number replaces them. What this module does not know: how anything in the files is used; what a watermark is.
"""

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from registry.adapters import Adapter, AdapterFacts, AdapterStore
from registry.atomic import Staging, discard, exclusive, remove_folder, replace_file, sync_folder
from registry.errors import CommitConflict, DigestMismatch, RegistryError, UnknownManifest
from registry.layout import Layout
from registry.manifest import Manifest, RouterRef, is_after
from registry.retention import Retention, retain
from registry.snapshots import Snapshot, read_manifest


class Registry:
    """The files under one root. Cheap to open; safe to open in as many processes as needed."""

    def __init__(self, root: Path, *, writer: bool = False) -> None:
        """Open, and create where there is nothing. `writer` also sweeps what interrupted writes have left behind."""
        self._layout = Layout(Path(root))
        self._layout.create()
        self.root = self._layout.root
        self._staging = Staging(self._layout.staging)
        self._adapters = AdapterStore(self._layout.adapters, self._staging, self._layout.lock)
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

    # Publication

    def commit(
        self,
        manifest: Manifest,
        weights: bytes | None,
        tensors: Mapping[str, np.ndarray[Any, Any]],
        metadata: Mapping[str, str],
    ) -> Manifest:
        """Publish `manifest` with the router's state, durably and in one step; returns it with the router's file named.

        `weights` are the router's for this manifest; None keeps the file that `manifest.router` names, or no router.
        The same commit again, after an interruption, returns what was committed. Raises CommitConflict if the
        manifest does not follow the current one, UnknownAdapter or DigestMismatch if what it adds is not there.
        """
        with exclusive(self._layout.lock):
            current = self.current()
            complete = self._with_router(manifest, weights)
            snapshot = Snapshot(complete, dict(tensors), dict(metadata))
            if current is not None and current.number == complete.number:
                return self._repeated(snapshot, current)
            if not is_after(complete, current):
                stands = f"manifest {current.number}" if current else "no manifest"
                raise CommitConflict(
                    f"{self.root}: manifest {complete.number} with parent {complete.parent} does not follow: "
                    f"current is {stands}; read it and commit the next number"
                )
            self._check_routes(complete, current)
            content = snapshot.to_bytes()
            if weights is not None and complete.router is not None:
                replace_file(self._staging, self.root / complete.router.path, weights)
            replace_file(self._staging, self._layout.manifest(complete.number), complete.to_json().encode())
            replace_file(self._staging, self._layout.snapshot(complete.number), content)
            return complete

    def current(self) -> Manifest | None:
        """The manifest in force: that of the highest whole snapshot; None before the first."""
        while True:
            numbers = self._layout.snapshot_numbers()
            for number in reversed(numbers):
                try:
                    manifest, _ = read_manifest(self._layout.snapshot(number))
                except DigestMismatch:
                    # Cut short, so it was never committed, or the disk lost it: the one before is in force.
                    continue
                except FileNotFoundError:
                    break
                return manifest
            else:
                return None
            # A commit and a prune have passed since the listing: look again.

    def manifest(self, number: int) -> Manifest:
        """A committed manifest; raises UnknownManifest if it never was or is pruned."""
        current = self.current()
        if current is not None and number == current.number:
            return current
        path = self._layout.manifest(number)
        try:
            # A file above the current number belongs to an interrupted commit.
            if current is None or number > current.number:
                raise FileNotFoundError
            return Manifest.from_json(path.read_bytes(), str(path))
        except FileNotFoundError as error:
            newest = f"the current is {current.number}" if current else "there is none yet"
            raise UnknownManifest(f"manifest {number}: not in {self.root}; {newest}, older ones are pruned") from error

    def manifests(self) -> list[Manifest]:
        """Committed manifests that are still kept, oldest first."""
        current = self.current()
        if current is None:
            return []
        numbers = [number for number in self._layout.manifest_numbers() if number < current.number]
        found = []
        for number in numbers:
            try:
                found.append(self.manifest(number))
            except UnknownManifest:
                # Pruned between listing and reading.
                continue
        return [*found, current]

    def snapshot(self, number: int | None = None) -> Snapshot | None:
        """The router's state as published with manifest `number`, checked to the last byte; None means the current.

        None is returned before the first commit; UnknownManifest is raised for a number that is not kept.
        """
        while True:
            current = self.current()
            if current is None and number is None:
                return None
            wanted = current.number if current and number is None else number
            try:
                if wanted is None or current is None or wanted > current.number:
                    raise FileNotFoundError
                return Snapshot.read(self._layout.snapshot(wanted))
            except FileNotFoundError as error:
                if number is None:
                    continue
                raise UnknownManifest(
                    f"snapshot {number}: not in {self.root}; kept are {self._layout.snapshot_numbers()}"
                ) from error

    def weights(self, manifest: Manifest) -> bytes:
        """The router's weights that `manifest` routes with; raises DigestMismatch, or RegistryError if it has none."""
        if manifest.router is None:
            raise RegistryError(f"manifest {manifest.number}: has no router; nothing was learned yet")
        return self._read_weights(manifest.number, manifest.router)

    def frozen(self, name: str) -> bytes | None:
        """What homes of an earlier kind froze under `name`, or None."""
        try:
            return self._layout.frozen(name).read_bytes()
        except FileNotFoundError:
            return None

    # What is forgotten

    def prune(self, keep_snapshots: int = 2, keep_manifests: int = 20) -> list[str]:
        """Remove what `retention` lets go; returns the paths removed, relative to the root.

        What the current manifest names always stays, and so does what those before it name as far as they are kept:
        `keep_manifests` bounds how long a request in flight may go on with a version that was replaced. An adapter that
        can't be read is left to whoever restores it.
        """
        if keep_snapshots < 1 or keep_manifests < 1:
            raise RegistryError(f"prune: expected to keep at least 1, got {keep_snapshots} and {keep_manifests}")
        with exclusive(self._layout.lock):
            manifests = self.manifests()
            if not manifests:
                return []
            current = manifests[-1].number
            adapters, _ = self.survey()
            kept = retain(
                manifests,
                [number for number in self._layout.snapshot_numbers() if number <= current],
                adapters,
                keep_snapshots=keep_snapshots,
                keep_manifests=keep_manifests,
            )
            doomed = [adapter.path for adapter in adapters if adapter.name not in kept.adapters]
            return [*self._remove_all_but(kept, current), *self._remove_folders(doomed)]

    def _remove_all_but(self, kept: Retention, current: int) -> list[str]:
        # From what refers to what is referred to, so that an interruption leaves orphans and nothing dangling.
        # Numbers above the current one belong to a commit that was interrupted and will be made again.
        doomed = [
            *(
                self._layout.snapshot(n)
                for n in self._layout.snapshot_numbers()
                if n <= current and n not in kept.snapshots
            ),
            *(
                self._layout.manifest(n)
                for n in self._layout.manifest_numbers()
                if n <= current and n not in kept.manifests
            ),
            *(
                self._layout.router(n)
                for n in self._layout.router_numbers()
                if n <= current and self._layout.relative(self._layout.router(n)) not in kept.routers
            ),
        ]
        for path in doomed:
            discard(path)
        for folder in {path.parent for path in doomed}:
            sync_folder(folder)
        return [self._layout.relative(path) for path in doomed]

    def _remove_folders(self, folders: Sequence[Path]) -> list[str]:
        for folder in folders:
            remove_folder(self._staging, folder)
        return [self._layout.relative(folder) for folder in folders]

    # Within a commit

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
        named = RouterRef(
            fingerprint=router.fingerprint,
            abstain_below=router.abstain_below,
            path=self._layout.relative(self._layout.router(manifest.number)),
            digest=hashlib.sha256(weights).hexdigest(),
        )
        if router.digest and router.digest != named.digest:
            raise DigestMismatch(
                f"manifest {manifest.number}: expected router weights with sha256 {router.digest}, got {named.digest}; "
                "leave the digest out, commit fills it in"
            )
        return manifest.model_copy(update={"router": named})

    def _repeated(self, snapshot: Snapshot, current: Manifest) -> Manifest:
        path = self._layout.snapshot(current.number)
        if read_manifest(path)[1] != snapshot.digest():
            raise CommitConflict(
                f"{self.root}: manifest {current.number} is committed with other content; "
                "read the current one and commit the next number"
            )
        # The first attempt may have been interrupted just before its last fsync.
        sync_folder(path.parent)
        return current

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
