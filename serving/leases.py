"""Leases: what requests in flight still need.

A request takes a lease on the whole manifest it starts under, and narrows it to the versions it has chosen. Nothing a
lease holds is unloaded. Knows no engine; it only says when something may have become free.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable
from types import TracebackType

from serving.served import ServedManifest


class Lease:
    """One request's hold, from its routing to its last token; released once, however often it is asked to."""

    def __init__(self, leases: Leases, served: ServedManifest) -> None:
        self.served = served
        self._leases = leases
        self._names: frozenset[str] | None = None
        self._released = False
        self._ends: list[Callable[[], None]] = []
        leases._manifests[served] += 1

    def narrow(self, names: Iterable[str]) -> None:
        """Hold only these versions from here on: of the lease's manifest, or the base, which may be about to change."""
        if self._released or self._names is not None:
            raise ValueError("a lease is narrowed once, before its release")
        self._names = frozenset(names)
        self._leases._adapters.update(self._names)
        self._leases._drop_manifest(self.served)
        self._leases._on_release()

    def ends_with(self, end: Callable[[], None]) -> None:
        """Have `end` called when this is released."""
        self._ends.append(end)

    def release(self) -> None:
        if self._released:
            return
        self._released = True
        for end in self._ends:
            end()
        if self._names is None:
            self._leases._drop_manifest(self.served)
        else:
            self._leases._drop_adapters(self._names)
        self._leases._on_release()

    def __enter__(self) -> Lease:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self.release()


class Leases:
    """All leases of one replica. Single-threaded: used on the event loop only.

    `on_release` is called after each release or narrowing; it must not raise.
    """

    def __init__(self, on_release: Callable[[], None] = lambda: None) -> None:
        self._on_release = on_release
        self._manifests: Counter[ServedManifest] = Counter()
        self._adapters: Counter[str] = Counter()

    def take(self, served: ServedManifest) -> Lease:
        return Lease(self, served)

    def held(self) -> set[str]:
        """The names of all versions that some request may still use."""
        names = set(self._adapters)
        for served in self._manifests:
            names.update(served.by_name)
        return names

    def __len__(self) -> int:
        """Holds outstanding; a batch that uses several versions holds each."""
        return sum(self._manifests.values()) + sum(self._adapters.values())

    def _drop_manifest(self, served: ServedManifest) -> None:
        self._manifests[served] -= 1
        if not self._manifests[served]:
            del self._manifests[served]

    def _drop_adapters(self, names: Iterable[str]) -> None:
        for name in names:
            self._adapters[name] -= 1
            if not self._adapters[name]:
                del self._adapters[name]
