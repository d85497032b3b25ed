"""Everything in a registry, read and compared with its name. Changes nothing, and works beside a writer.

What this module does not know: what the state means, and who follows it.
"""

from collections.abc import Callable, Iterator

from registry.atomic import exclusive
from registry.errors import DigestMismatch, RegistryError
from registry.layout import Layout
from registry.registry import Registry
from registry.snapshots import Snapshot

_LOOKS = 5


def verify(registry: Registry) -> list[str]:
    """Return what is wrong, in lines; empty where every snapshot, segment, manifest and version is whole.

    What is found is looked at again, as a writer may have committed and pruned meanwhile: damage stays.
    """
    before: list[str] = []
    for _ in range(_LOOKS):
        wrong = _look(registry)
        if not wrong or wrong == before:
            return wrong
        before = wrong
    # Something else each time: the writer waits while this is settled.
    with exclusive(Layout(registry.root).lock):
        return _look(registry)


def _look(registry: Registry) -> list[str]:
    try:
        head = registry.head()
    except RegistryError as error:
        return [str(error)]
    return _Look(registry, head.snapshot_digest).wrong()


class _Look:
    """One pass over all files."""

    def __init__(self, registry: Registry, newest: str) -> None:
        self._registry, self._layout = registry, Layout(registry.root)
        self._newest = newest
        self._wrong: list[str] = []
        self._routers: set[str] = set()

    def wrong(self) -> list[str]:
        registry = self._registry
        self._try(registry.snapshot)
        for name in sorted({name for snapshot in self._line() for name in snapshot.segments}):
            self._try(registry.segments.verify, name)
        self._check_manifests()
        adapters, damaged = registry.survey()
        self._wrong += [str(error) for error in damaged.values()]
        for adapter in adapters:
            self._try(adapter.verify)
        return list(dict.fromkeys(self._wrong))

    def _line(self) -> Iterator[Snapshot]:
        """The snapshot in force and those before it that are kept; others belong to no line that is in force."""
        names = {name.digest: name for name in self._layout.snapshot_names()}
        digest = self._newest
        while digest in names:
            path = self._layout.snapshot(*names[digest])
            try:
                snapshot = Snapshot.read(path, digest)
            except (RegistryError, OSError) as error:
                self._wrong.append(f"{path.parent}: {error}; it can't be gone back to")
                return
            if snapshot.lineage != self._registry.lineage:
                self._wrong.append(f"{path}: expected one of home {self._registry.lineage}, got {snapshot.lineage}")
            yield snapshot
            digest = snapshot.parent

    def _check_manifests(self) -> None:
        registry = self._registry
        try:
            manifests = registry.manifests()
        except RegistryError as error:
            self._wrong.append(str(error))
            return
        for after in manifests:
            if after.parent in self._layout.manifest_numbers() and after.parent not in {m.number for m in manifests}:
                self._wrong.append(
                    f"{self._layout.manifest(after.parent)}: expected sha256 {after.parent_digest}, got another; "
                    "restore the file from a backup"
                )
            if after.router is not None and after.router.path not in self._routers:
                self._routers.add(after.router.path)
                self._try(registry.weights, after)
        for route in manifests[-1].routes.values() if manifests else ():
            self._try(self._check_route, route.adapter, route.digest)

    def _check_route(self, name: str, digest: str) -> None:
        adapter = self._registry.adapter(name)
        if adapter.digest != digest:
            raise DigestMismatch(f"{adapter.path}: expected sha256 {digest} as in the manifest, got {adapter.digest}")

    def _try(self, look: Callable[..., object], *args: object) -> None:
        try:
            look(*args)
        except (RegistryError, OSError) as error:
            self._wrong.append(str(error))
