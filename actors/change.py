"""What a publication may change, and what is in service, what waits and what is gone on from after it. Pure: it reads
the registry, writes nothing.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from actors.errors import NoLongerSealed, OutOfDate, UnknownDomain
from actors.observation import Watermarks
from registry.adapters import Adapter, parsed_name
from registry.manifest import Manifest, Route, Tombstone
from registry.registry import Registry


@dataclass(frozen=True)
class Change:
    """One step from a manifest to the next.

    `puts` names, by domain, versions that come into service for their segments, beside the versions of the other
    segments that they were judged beside; it settles the rows that are sealed under them, and brings what the same
    training has made. Where the domain is pinned and `override` is false, rows are settled all the same, and the
    version waits for the end of the pin. `pins` sets or clears pins. `withdraws` names, by domain, versions that no
    replica could load: the domain is served by the version before, or not at all, until that one, or another, can be.
    `removes` are the domains that leave the sums and the ledger as well, each with the highest number that was given to
    a version of it: none up to that may ever be served again. `fence` says where the stream ends: rows and markers of
    the removed domains below it are gone too, counted or not, read or not.
    """

    reason: str
    puts: Mapping[str, str] = field(default_factory=dict)
    pins: Mapping[str, bool] = field(default_factory=dict)
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
    for domain, name in change.puts.items():
        # The version itself, and the domain's other segments as they were when it was made.
        found, route = registry.route(adapter_of(domain, name, registry, removed).name), after.get(domain)
        if route is None or change.override or not route.pinned:
            after[domain] = found.model_copy(update={"pinned": route.pinned if route else False})
    for domain, pinned in change.pins.items():
        if domain not in after:
            raise UnknownDomain(f"domain {domain!r} is not published; published: {sorted(routes) or 'none'}")
        after[domain] = after[domain].model_copy(update={"pinned": pinned})
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
    for domain, name in change.puts.items():
        earlier = before.get(domain)
        waits_on = earlier is not None and (earlier.pinned or earlier.adapter == name)
        if routes[domain].adapter != name:
            withdrawn[domain] = name
        elif not waits_on or withdrawn.get(domain) == name:
            withdrawn.pop(domain, None)
    return {**withdrawn, **change.withdraws}


def made_together(
    change: Change, settled: Sequence[Adapter], current: Manifest | None, registry: Registry
) -> dict[str, list[str]]:
    """Return, by domain and in order, the versions that the trainings of a change have made beside those it names: all
    of them where its versions are settled by it, those that still wait where they are tried again.

    Raises `OutOfDate` where one of them belongs to a domain that was removed since.
    """
    waiting = set(current.withdrawn.items()) if current else set()
    again = [name for domain, name in change.puts.items() if (domain, name) in waiting and not change.override]
    found: dict[str, list[str]] = {}
    for adapter in settled or map(registry.adapter, again):
        for name in adapter.facts.together:
            domain, version = parsed_name(name) or ("", 0)
            stone = current.removed.get(domain) if current else None
            if settled and stone is not None and version <= stone.version:
                raise OutOfDate(f"{adapter.name} is not published: {domain!r} was removed since it was trained")
            if settled or (domain, name) in waiting:
                found.setdefault(domain, []).append(name)
    return found


def check_state(adapter: Adapter, current: Manifest | None) -> None:
    """Raise `OutOfDate` where a version was trained from another state than the one that its own would replace."""
    facts = adapter.facts
    in_force = current.states.get(facts.learner, "") if current else ""
    if (facts.state or facts.state_before) and facts.state_before != in_force:
        raise OutOfDate(
            f"{adapter.name} is not published: it was trained from state {facts.state_before[:8] or 'none'} of "
            f"{facts.learner}, in force is {in_force[:8] or 'none'}"
        )


def next_states(current: Manifest | None, change: Change, settled: Sequence[Adapter]) -> dict[str, str]:
    """Return the methods' states after a change; none after a removal, as what they have of a domain is unknown."""
    states = dict(current.states) if current is not None and not change.removes else {}
    return states | {each.facts.learner: each.facts.state for each in settled if each.facts.state}


def next_delta(current: Manifest | None, change: Change, routes: Mapping[str, Route], registry: Registry) -> str:
    """Return the change of the base that the versions which a change puts in service were judged on; that all others
    were is for the registry to check."""
    served = [registry.adapter(name) for domain, name in change.puts.items() if routes[domain].adapter == name]
    return [current.base.delta if current else "", *(each.facts.base_delta for each in served)][-1]


def adapter_of(domain: str, name: str, registry: Registry, removed: Mapping[str, Tombstone]) -> Adapter:
    """Return a version of a domain by its full name. Raises `UnknownDomain` for another domain's, `NoLongerSealed` for
    one from before the domain's removal."""
    adapter = registry.adapter(name)
    if adapter.domain != domain:
        raise UnknownDomain(f"version {adapter.name} belongs to domain {adapter.domain!r}, not {domain!r}")
    tombstone = removed.get(domain)
    if tombstone is not None and adapter.version <= tombstone.version:
        raise NoLongerSealed(
            f"{adapter.name} is not published: {domain!r} was removed with manifest {tombstone.manifest}"
        )
    return adapter
