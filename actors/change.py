"""What a publication may change, and the routes that follow from it. Pure: it reads the registry, writes nothing."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from actors.errors import NoLongerSealed, UnknownDomain
from actors.observation import Watermarks
from registry.manifest import Route, Tombstone
from registry.registry import Registry


@dataclass(frozen=True)
class Change:
    """One step from a manifest to the next.

    `adapter` puts a version in service for its domain (unless the domain is pinned and `override` is false) and settles
    the rows that are sealed under it; `pinned` sets or clears the domain's pin. `withdraws` names, by domain, versions
    that no replica could load: the domain is served by the version before, or not at all, until the version named, or
    another, can be. `removes` are the domains that leave the sums and the ledger as well, each with the highest number
    that was given to a version of it: none up to that may ever be served again. `fence` says where the
    stream ends: rows and markers of the removed domains below it are gone too, counted or not, read or not.
    """

    reason: str
    domain: str | None = None
    adapter: str | None = None
    pinned: bool | None = None
    override: bool = False
    withdraws: Mapping[str, str] = field(default_factory=dict)
    removes: Mapping[str, int] = field(default_factory=dict)
    fence: Watermarks = field(default_factory=dict)


def next_routes(
    routes: Mapping[str, Route], change: Change, registry: Registry, removed: Mapping[str, Tombstone]
) -> dict[str, Route]:
    """Return the routes after a change.

    Raises `UnknownDomain` for a domain that is not there, `NoLongerSealed` for a version of a domain that was removed.
    """
    gone = {*change.removes, *change.withdraws}
    after = {domain: route for domain, route in routes.items() if domain not in gone}
    if change.domain is None:
        return after
    route = after.get(change.domain)
    if change.adapter is not None and (route is None or change.override or not route.pinned):
        adapter = registry.adapter(change.adapter)
        if adapter.domain != change.domain:
            raise UnknownDomain(f"version {adapter.name} belongs to domain {adapter.domain!r}, not {change.domain!r}")
        tombstone = removed.get(change.domain)
        if tombstone is not None and adapter.version <= tombstone.version:
            raise NoLongerSealed(
                f"{adapter.name} is not published: {change.domain!r} was removed with manifest {tombstone.manifest}"
            )
        route = Route(
            adapter=adapter.name,
            digest=adapter.digest,
            rank=adapter.facts.rank,
            version=adapter.version,
            pinned=route.pinned if route else False,
        )
    if route is None:
        raise UnknownDomain(f"domain {change.domain!r} is not published; published: {sorted(routes) or 'none'}")
    if change.pinned is not None:
        route = route.model_copy(update={"pinned": change.pinned})
    after[change.domain] = route
    return after
