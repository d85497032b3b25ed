"""What may be forgotten. A pure decision, so that it can be tested without a disk.

Kept are the newest snapshots; the newest manifests, which bound for how long a request may go on with a version that
was replaced; every adapter that one of those names; of each domain some accepted versions before the one in service,
and as many before its newest accepted one, which bound how far a rollback reaches, also when a pin has ended; its
newest version of all, so that numbers are not given twice; and versions younger than the oldest kept manifest, rejected
ones with their figures among them.

A damaged manifest can't say what it names: as long as manifests of its time are kept, so is it, and all weights and
versions with it.

Of a removed domain nothing is kept: neither its versions nor the snapshots and manifests from before its removal, once
nobody serves those any more. What this module does not know: files.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

from registry.adapters import Adapter, parsed_name
from registry.manifest import Manifest, Route, retained_since


@dataclass(frozen=True)
class Retention:
    """What stays."""

    snapshots: frozenset[int]
    manifests: frozenset[int]
    """Damaged ones too."""
    routers: frozenset[str]
    adapters: frozenset[str]
    folders: frozenset[str]
    """Digests of methods' states and of changes of the base."""
    removed: Mapping[str, int]
    """The domains of which nothing is kept, and the highest version that was theirs."""
    outlived: frozenset[str] | None
    """Weights from before a removal; None unless a kept manifest is damaged: it may name any others."""

    def has_weights(self, path: str) -> bool:
        """Whether the weights in the file of that path stay."""
        return path in self.routers or (self.outlived is not None and path not in self.outlived)

    def is_of_removed(self, name: str) -> bool:
        """Whether the version of that full name, readable or not, belongs to a domain of which nothing is kept."""
        domain, version = parsed_name(name) or ("", 0)
        return version <= self.removed.get(domain, 0)


@dataclass(frozen=True)
class Keeping:
    """How much stays; `versions` of each domain beside the one in service. `serving` is the lowest manifest that
    anybody serves, None where nobody does."""

    snapshots: int
    manifests: int
    versions: int
    serving: int | None = None


def retain(
    manifests: Sequence[Manifest],
    snapshots: Sequence[tuple[int, int]],
    adapters: Sequence[Adapter],
    keeping: Keeping,
    damaged: Collection[int] = (),
) -> Retention:
    """What stays of these, all ascending; the last manifest and the last snapshot are the ones in force.

    A snapshot is its number and the number of the manifest that it stands with; `damaged` are the numbers of manifests
    whose content is not known.
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
    since = min([served, *(manifest.number for manifest in kept)])
    unknown = {each for each in damaged if each >= since}
    reachable = _reachable(adapters, manifests[-1].routes if manifests else {}, keeping.versions)
    stay = list(adapters) if unknown else _kept_adapters(kept, adapters, reachable)
    outlived = {each.router.path for each in manifests if each.router and each.number < since_removal}
    stay = [each for each in stay if each.domain not in gone or each.version > gone[each.domain].version]
    return Retention(
        snapshots=frozenset(kept_snapshots),
        manifests=frozenset(unknown | {manifest.number for manifest in kept}),
        routers=frozenset(manifest.router.path for manifest in kept if manifest.router),
        adapters=frozenset(adapter.name for adapter in stay),
        folders=_folders(kept, adapters if unknown else _unpublished(stay, kept, manifests)),
        removed={of: stone.version for of, stone in gone.items()},
        outlived=frozenset(outlived) if unknown else None,
    )


def _folders(manifests: Sequence[Manifest], adapters: Sequence[Adapter]) -> frozenset[str]:
    """What manifests go on from, and versions will that none of them has named yet."""
    named = {name for manifest in manifests for name in (*manifest.states.values(), manifest.base.delta)}
    return frozenset(named | {name for each in adapters for name in (each.facts.state, each.facts.base_delta)}) - {""}


def _unpublished(adapters: Sequence[Adapter], kept: Sequence[Manifest], manifests: Sequence[Manifest]) -> list[Adapter]:
    """The versions that may still bring a state or a base into service: those that wait, and those whose training began
    on a manifest that is kept; any other is out of date, or was published."""
    waiting = set(manifests[-1].withdrawn.values()) if manifests else set()
    began = {each.number for each in kept} | ({0} if all(each.parent is None for each in kept[-1:]) else set())
    return [each for each in adapters if each.name in waiting or each.facts.trained_on in began]


def _kept_adapters(
    manifests: Sequence[Manifest], adapters: Sequence[Adapter], reachable: Collection[str]
) -> list[Adapter]:
    named = {name for manifest in manifests for route in manifest.routes.values() for name in route.names}
    named |= {name for manifest in manifests for name in manifest.withdrawn.values()}
    newest = {adapter.domain: adapter.name for adapter in adapters}
    since = retained_since(list(manifests))
    kept = [
        adapter
        for adapter in adapters
        if adapter.name in named
        or adapter.name in reachable
        or adapter.name == newest[adapter.domain]
        or since is None
        or adapter.facts.created_at >= since
    ]
    # A version comes into service with those of the other segments that it was judged beside, or was made with.
    beside = {name for adapter in kept for name in (*adapter.facts.beside, *adapter.facts.together)}
    names = {adapter.name for adapter in kept}
    return [adapter for adapter in adapters if adapter.name in names or adapter.name in beside]


def _reachable(adapters: Sequence[Adapter], routes: Mapping[str, Route], versions: int) -> set[str]:
    """The accepted versions that a rollback may come to: before the one in service, and before the newest, which may
    serve once a pin has ended."""
    accepted: dict[str, list[Adapter]] = {}
    for adapter in adapters:
        if adapter.facts.status == "accepted":
            accepted.setdefault(adapter.domain, []).append(adapter)
    found: set[str] = set()
    for domain, line in accepted.items():
        found |= {adapter.name for adapter in line[-versions - 1 :]}
        if (route := routes.get(domain)) is not None:
            found |= {adapter.name for adapter in [a for a in line if a.version < route.version][-versions:]}
    return found
