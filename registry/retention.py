"""What may be forgotten. A pure decision, so that it can be tested without a disk.

Kept are the newest snapshots; the newest manifests, which bound for how long a request may go on with a version that
was replaced; every adapter that one of those names; of each domain its newest accepted versions, which bound how far a
rollback reaches, and its newest version of all, so that numbers are not given twice; and versions younger than the
oldest kept manifest, rejected ones with their figures among them.

Of a removed domain nothing is kept: neither its versions nor the snapshots and manifests from before its removal, once
nobody serves those any more. What this module does not know: files.
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


@dataclass(frozen=True)
class Keeping:
    """How much stays; `serving` is the lowest manifest that anybody serves, None where nobody does."""

    snapshots: int
    manifests: int
    versions: int
    serving: int | None = None


def retain(
    manifests: Sequence[Manifest],
    snapshots: Sequence[tuple[int, int]],
    adapters: Sequence[Adapter],
    keeping: Keeping,
) -> Retention:
    """What stays of these, all ascending; the last manifest and the last snapshot are the ones in force.

    A snapshot is its number and the number of the manifest that it stands with.
    """
    number, removed = (manifests[-1].number, manifests[-1].removed) if manifests else (0, {})
    served = number if keeping.serving is None else min(keeping.serving, number)
    gone = {of: stone for of, stone in removed.items() if stone.manifest <= served}
    since_removal = max((stone.manifest for stone in gone.values()), default=0)
    kept_snapshots = [
        number
        for place, (number, manifest) in enumerate(reversed(snapshots))
        if place == 0 or (place < keeping.snapshots and manifest >= since_removal)
    ]
    needed = {manifest for number, manifest in snapshots if number in kept_snapshots}
    kept = [
        manifest
        for place, manifest in enumerate(reversed(manifests))
        if manifest.number >= since_removal
        and (place < keeping.manifests or manifest.number in needed or manifest.number >= served)
    ]
    return Retention(
        snapshots=frozenset(kept_snapshots),
        manifests=frozenset(manifest.number for manifest in kept),
        routers=frozenset(manifest.router.path for manifest in kept if manifest.router),
        adapters=frozenset(
            adapter.name
            for adapter in _kept_adapters(kept, adapters, keeping.versions)
            if adapter.domain not in gone or adapter.version > gone[adapter.domain].version
        ),
    )


def _kept_adapters(manifests: Sequence[Manifest], adapters: Sequence[Adapter], versions: int) -> list[Adapter]:
    named = {route.adapter for manifest in manifests for route in manifest.routes.values()}
    named |= {name for manifest in manifests for name in manifest.withdrawn.values()}
    newest = {adapter.domain: adapter.name for adapter in adapters}
    accepted: dict[str, list[str]] = {}
    for adapter in adapters:
        if adapter.facts.status == "accepted":
            accepted.setdefault(adapter.domain, []).append(adapter.name)
    reachable = {name for names in accepted.values() for name in names[-versions:]}
    since = retained_since(list(manifests))
    return [
        adapter
        for adapter in adapters
        if adapter.name in named
        or adapter.name in reachable
        or adapter.name == newest[adapter.domain]
        or since is None
        or adapter.facts.created_at >= since
    ]
