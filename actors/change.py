"""What a publication may change, and what is in service and what waits after it. Pure: it reads the registry, writes
nothing.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from actors.errors import NoLongerSealed, UnknownDomain
from actors.observation import Watermarks
from registry.manifest import Manifest, Route, Tombstone
from registry.registry import Registry


@dataclass(frozen=True)
class Change:
    """One step from a manifest to the next.

    `adapter` puts a version in service for its segment of the domain, beside the versions of the other segments that it
    was judged beside, and settles the rows that are sealed under it; where the domain
    is pinned and `override` is false, it settles them all the same, and the version waits for the end of the pin.
    `pinned` sets or clears the domain's pin. `withdraws` names, by domain, versions
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
    if change.adapter is not None:
        found = _route_of(change.domain, change.adapter, registry, removed)
        if route is None or change.override or not route.pinned:
            route = found.model_copy(update={"pinned": route.pinned if route else False})
    if route is None:
        raise UnknownDomain(f"domain {change.domain!r} is not published; published: {sorted(routes) or 'none'}")
    if change.pinned is not None:
        route = route.model_copy(update={"pinned": change.pinned})
    after[change.domain] = route
    return after


def next_withdrawn(current: Manifest | None, change: Change, routes: Mapping[str, Route]) -> dict[str, str]:
    """Return, by domain, the accepted versions that are not in service after a change which leads to these routes.

    A version that is published under a pin waits here for the pin's end, in the place of one before it. A domain that
    goes is not among them, nor one that gets a version; but while a pin holds, another version that is put in service
    by name leaves the waiting one where it is: it was learned since, and nobody else has learned from its rows.
    """
    before, withdrawn = (current.routes, dict(current.withdrawn)) if current else ({}, {})
    for domain in change.removes:
        withdrawn.pop(domain, None)
    if change.domain is not None and change.adapter is not None:
        domain, earlier = change.domain, before.get(change.domain)
        waits_on = earlier is not None and (earlier.pinned or earlier.adapter == change.adapter)
        if routes[domain].adapter != change.adapter:
            withdrawn[domain] = change.adapter
        elif not waits_on or withdrawn.get(domain) == change.adapter:
            withdrawn.pop(domain, None)
    return {**withdrawn, **change.withdraws}


def _route_of(domain: str, name: str, registry: Registry, removed: Mapping[str, Tombstone]) -> Route:
    """Return the route that the version was made for: itself, and the domain's other segments as they were then."""
    adapter = registry.adapter(name)
    if adapter.domain != domain:
        raise UnknownDomain(f"version {adapter.name} belongs to domain {adapter.domain!r}, not {domain!r}")
    tombstone = removed.get(domain)
    if tombstone is not None and adapter.version <= tombstone.version:
        raise NoLongerSealed(
            f"{adapter.name} is not published: {domain!r} was removed with manifest {tombstone.manifest}"
        )
    return registry.route(name)
