"""What may be forgotten. A pure decision, so that it can be tested without a disk.

Kept are the newest snapshots; the newest manifests, which bound how far a rollback reaches; every router and adapter
that one of those names; each domain's newest version, so that numbers are not given twice; and
versions younger than the oldest kept manifest, rejected ones with their figures among them. What this module does
not know: files.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from registry.adapters import Adapter
from registry.manifest import Manifest, retained_since


@dataclass(frozen=True)
class Retention:
    """What stays."""

    snapshots: frozenset[int]
    manifests: frozenset[int]
    routers: frozenset[str]
    adapters: frozenset[str]


def retain(
    manifests: Sequence[Manifest],
    snapshots: Sequence[int],
    adapters: Sequence[Adapter],
    *,
    keep_snapshots: int,
    keep_manifests: int,
) -> Retention:
    """What stays of these, all ascending; the last manifest and the last snapshot are the current ones."""
    kept_snapshots = frozenset(snapshots[-keep_snapshots:])
    # A snapshot that a restart may stand on keeps its manifest, however few manifests are wanted.
    kept = [
        manifest
        for place, manifest in enumerate(reversed(manifests))
        if place < keep_manifests or manifest.number in kept_snapshots
    ]
    named = {route.adapter for manifest in kept for route in manifest.routes.values()}
    newest = {adapter.domain: adapter.name for adapter in adapters}
    since = retained_since(kept)
    return Retention(
        snapshots=kept_snapshots,
        manifests=frozenset(manifest.number for manifest in kept),
        routers=frozenset(manifest.router.path for manifest in kept if manifest.router),
        adapters=frozenset(
            adapter.name
            for adapter in adapters
            if adapter.name in named
            or adapter.name == newest[adapter.domain]
            or since is None
            or adapter.facts.created_at >= since
        ),
    )
