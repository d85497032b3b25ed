"""The publisher: brings a change into force, first in the registry, then at the replicas, one change at a time.

While the directory is away nothing new is brought into force: what the registry calls current is then what replicas
serve, together or each by itself. A manifest that no replica can load is taken back under a new number. It does not
know why a version is to be served: training and operators both come here.
"""

from __future__ import annotations

import threading

from actors.change import Change
from actors.errors import PublicationFailed, UnknownDomain
from actors.observation import Watermarks
from actors.ports import ManifestPort, ReplicasPort
from registry.manifest import Manifest
from registry.registry import Registry


class Publisher:
    """`writing` is held during a change; who prepares one that must not be overtaken holds it too."""

    def __init__(self, registry: Registry, router: ManifestPort, directory: ReplicasPort) -> None:
        self._registry, self._router, self._directory = registry, router, directory
        self.writing = threading.RLock()

    def check_directory(self) -> None:
        """Raise the directory's error while it can't be reached."""
        self._directory.replicas()

    def publish(self, change: Change, required: Watermarks) -> Manifest:
        """Bring a change into force; `required` are the watermarks it rests on.

        Raises `NotCaughtUp`, and `PublicationFailed` after a manifest that no replica takes was taken back.
        """
        with self.writing:
            self.check_directory()
            manifest = self._router.publish(change, required)
            try:
                self._directory.publish(manifest.number)
            except PublicationFailed:
                self._put_back(manifest, change)
                raise
            return manifest

    def rollback(self, domain: str, version: str | None = None) -> Manifest:
        """Put an earlier version back in service and pin it; without `version`, the accepted one before the present."""
        name = version or self._version_before(domain)
        self._check_accepted(domain, name)
        return self.publish(
            Change(reason=f"rolled back to {name}", domain=domain, adapter=name, pinned=True, override=True), {}
        )

    def pin(self, domain: str, version: str | None = None) -> Manifest:
        """Keep the version in service, or the one named, whatever is learned later."""
        if version is not None:
            self._check_accepted(domain, version)
        change = Change(reason=f"{domain} pinned", domain=domain, adapter=version, pinned=True, override=True)
        return self.publish(change, {})

    def unpin(self, domain: str) -> Manifest:
        """Let the next accepted version of the domain replace the one in service."""
        return self.publish(Change(reason=f"{domain} unpinned", domain=domain, pinned=False), {})

    def _put_back(self, manifest: Manifest, change: Change) -> None:
        """Put the domain's route before the one nobody can serve in force again, under a new number."""
        failed = manifest.routes.get(change.domain or "")
        if failed is None or change.domain is None:
            return
        earlier = (m.routes.get(change.domain) for m in reversed(self._registry.manifests()))
        before = next((route for route in earlier if route != failed), None)
        reason = f"{failed.adapter} could not be loaded"
        if before is None:
            back = Change(reason=reason, withdraws=frozenset({change.domain}))
        else:
            back = Change(
                reason=reason, domain=change.domain, adapter=before.adapter, pinned=before.pinned, override=True
            )
        self._directory.publish(self._router.publish(back, {}).number)

    def _version_before(self, domain: str) -> str:
        current = self._registry.current()
        route = current.routes.get(domain) if current else None
        if route is None:
            raise UnknownDomain(f"domain {domain!r} is not published; nothing to roll back")
        earlier = [
            adapter
            for adapter in self._registry.adapters(domain)
            if adapter.version < route.version and adapter.facts.status == "accepted"
        ]
        if not earlier:
            raise UnknownDomain(f"domain {domain!r} has no accepted version before v{route.version}")
        return max(earlier, key=lambda adapter: adapter.version).name

    def _check_accepted(self, domain: str, name: str) -> None:
        names = [a.name for a in self._registry.adapters(domain) if a.facts.status == "accepted"]
        if name not in names:
            raise UnknownDomain(f"domain {domain!r} has no accepted version {name!r}; it has: {names or 'none'}")
