"""Whether what a snapshot or a manifest needs is there, to the last byte: all that a system would start on or serve.

Both whoever checks a registry and whoever goes back in it ask here. What this module does not know: what is in force,
and what follows from damage.
"""

from collections.abc import Callable

from registry.adapters import AdapterStore
from registry.errors import DigestMismatch, RegistryError
from registry.folders import FolderStore
from registry.history import History
from registry.layout import Layout
from registry.manifest import Manifest, Placed
from registry.routers import read_weights
from registry.segments import SegmentStore
from registry.snapshots import Snapshot


class Wholeness:
    """One pass over files that do not change: what several name is read once. Faults are lines that name the file."""

    def __init__(
        self,
        layout: Layout,
        history: History,
        segments: SegmentStore,
        adapters: AdapterStore,
        states: FolderStore,
        bases: FolderStore,
    ) -> None:
        self._layout, self._history = layout, history
        self._segments, self._adapters = segments, adapters
        self._states, self._bases = states, bases
        self._looked: dict[tuple[object, ...], list[str]] = {}

    def faults(self, found: Snapshot | RegistryError) -> list[str]:
        """What is wrong with what a root holds, its segments, its manifest, and what that routes to."""
        if isinstance(found, RegistryError):
            return [str(found)]
        wrong = self.segments(found)
        if found.manifest == 0:
            return wrong
        try:
            manifest = self._history.manifest(found.manifest, found.manifest_digest)
        except FileNotFoundError:
            path = self._layout.manifest(found.manifest, found.manifest_digest)
            return [*wrong, f"{path}: expected the manifest of snapshot {found.number}, got no file"]
        except RegistryError as error:
            return [*wrong, str(error)]
        return [*wrong, *self.manifest(manifest)]

    def segments(self, snapshot: Snapshot) -> list[str]:
        """What is wrong with the segment files that a snapshot names, by their content."""
        looks = [self._look(("segment", name), self._segments.verify, name) for name in sorted(snapshot.segments)]
        return [line for lines in looks for line in lines]

    def manifest(self, manifest: Manifest) -> list[str]:
        """What is wrong with the weights and the versions that a manifest routes to, those that wait, with the versions
        that these serve beside, and what the next training goes on from."""
        wrong: list[str] = []
        for name in sorted({*manifest.states.values()}):
            wrong += self._look(("state", name), self._states.verify, name)
        if delta := manifest.base.delta:
            wrong += self._look(("base", delta), self._bases.verify, delta)
        if (router := manifest.router) is not None:
            wrong += self._look((router.path, router.digest), read_weights, self._layout, manifest.number, router)
        for _, route in sorted(manifest.routes.items()):
            for placed in route.segments.values():
                wrong += self.adapter(placed.adapter)
                wrong += self._look((placed.adapter, placed.digest), self._check_placed, placed)
        for _, name in sorted(manifest.withdrawn.items()):
            for each in (name, *self._beside(name)):
                wrong += self.adapter(each)
        return wrong

    def adapter(self, name: str) -> list[str]:
        """What is wrong with a version's files."""
        return self._look(("adapter", name), self._check_adapter, name)

    def exam(self, name: str) -> list[str]:
        """What is wrong with a version's exam. Nothing starts on it or serves it: it takes no version's wholeness."""
        return self._look(("exam", name), self._check_exam, name)

    def _check_adapter(self, name: str) -> None:
        self._adapters.get(name).verify()

    def _beside(self, name: str) -> tuple[str, ...]:
        try:
            return self._adapters.get(name).facts.beside
        except RegistryError:
            # `adapter` says so.
            return ()

    def _check_exam(self, name: str) -> None:
        self._adapters.get(name).exam()

    def _check_placed(self, placed: Placed) -> None:
        try:
            adapter = self._adapters.get(placed.adapter)
        except RegistryError:
            # `adapter` says so.
            return
        if adapter.digest != placed.digest:
            raise DigestMismatch(
                f"{adapter.place}: expected sha256 {placed.digest} as in the manifest, got {adapter.digest}"
            )

    def _look(self, key: tuple[object, ...], look: Callable[..., object], *args: object) -> list[str]:
        if key not in self._looked:
            self._looked[key] = []
            try:
                look(*args)
            except (RegistryError, OSError) as error:
                self._looked[key] = [str(error)]
        return self._looked[key]
