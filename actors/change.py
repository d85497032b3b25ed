"""What a publication may change, and what is in service, what waits and what is gone on from after it. Pure: it reads
the registry, writes nothing.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field

from actors.errors import NoLongerSealed, OutOfDate, UnknownDomain
from actors.observation import Watermarks
from registry.adapters import Adapter, parsed_name
from registry.errors import RegistryError, UnknownManifest
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
    the removed domains below it are gone too, counted or not, read or not. `states` are those that methods go on from,
    where they go back as well.
    """

    reason: str
    puts: Mapping[str, str] = field(default_factory=dict)
    pins: Mapping[str, bool] = field(default_factory=dict)
    override: bool = False
    withdraws: Mapping[str, str] = field(default_factory=dict)
    removes: Mapping[str, int] = field(default_factory=dict)
    fence: Watermarks = field(default_factory=dict)
    states: Mapping[str, str] | None = None


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
    by name leaves the waiting one where it is: it was learned since, and nobody else has learned from its rows. Where
    methods go back to states of before, the base does as well: none waits that was judged on another.
    """
    before, withdrawn = (current.routes, dict(current.withdrawn)) if current else ({}, {})
    for domain in change.removes:
        withdrawn.pop(domain, None)
    for domain, name in change.puts.items():
        earlier = before.get(domain)
        waits_on = earlier is not None and (earlier.pinned or earlier.adapter == name) and change.states is None
        if routes[domain].adapter != name:
            withdrawn[domain] = name
        elif not waits_on or withdrawn.get(domain) == name:
            withdrawn.pop(domain, None)
    return {**withdrawn, **change.withdraws}


def gone_on_from(current: Manifest | None) -> dict[str, str]:
    """Return, by domain, the version that the next training goes on from: an accepted one that waits before the one in
    service, as its rows are settled and nobody else has learned from them."""
    if current is None:
        return {}
    return {domain: route.adapter for domain, route in current.routes.items()} | current.withdrawn


def delta_gone_on_from(current: Manifest | None, registry: Registry) -> str:
    """Return the change of the base that these were judged on: that of what waits, where it brings one."""
    delta = current.base.delta if current is not None else ""
    waiting = [found for found in _readable(current.withdrawn.values() if current else (), registry)]
    return next((each.facts.base_delta for each in waiting if each.facts.base_delta != delta), delta)


def made_together(
    change: Change, settled: Sequence[Adapter], current: Manifest | None, registry: Registry
) -> dict[str, list[str]]:
    """Return, by domain and in order, the versions that were made together with those that a change puts in service:
    all that the same training has made where they are settled by it; where they have waited, what waits with them, but
    for what another pin holds."""
    found: dict[str, list[str]] = {}
    waiting, routes = (current.withdrawn, current.routes) if current else ({}, {})
    free = {
        name: domain
        for domain, name in waiting.items()
        if domain in change.puts or not (domain in routes and routes[domain].pinned)
    }
    tried = {name for domain, name in change.puts.items() if waiting.get(domain) == name}
    for adapter in settled or _readable(waiting.values(), registry):
        made = (*adapter.facts.together, adapter.name)
        if settled or tried.intersection(made):
            for name in made:
                domain, _ = parsed_name(name) or ("", 0)
                if settled or free.get(name) == domain:
                    found.setdefault(domain, []).append(name)
    return found


def _readable(names: Iterable[str], registry: Registry) -> Iterator[Adapter]:
    for name in names:
        with suppress(RegistryError):
            yield registry.adapter(name)


def check_up_to_date(adapter: Adapter, current: Manifest | None, registry: Registry) -> None:
    """Raise `OutOfDate` where a version would undo what it has not seen: its training took something from other domains
    or its method's state, and these are gone on from otherwise by now; or it was judged on another base."""
    facts = adapter.facts
    if facts.trained_on is None:
        if (delta := delta_gone_on_from(current, registry)) != facts.base_delta:
            raise OutOfDate(f"{adapter.name} is not published: the base is changed by {delta[:8] or 'nothing'} by now")
        return
    try:
        before = registry.manifest(facts.trained_on) if facts.trained_on else None
    except UnknownManifest as error:
        raise OutOfDate(f"{adapter.name} is not published: what it was trained on is not known: {error}") from error
    was, now = (_seen(adapter, manifest) for manifest in (before, current))
    if changed := sorted(what for what in was.keys() | now.keys() if was.get(what) != now.get(what)):
        raise OutOfDate(
            f"{adapter.name} is not published: since manifest {facts.trained_on}, which it was trained on, there came "
            f"another {', another '.join(changed)}, or it was removed"
        )


def _seen(adapter: Adapter, manifest: Manifest | None) -> dict[str, str]:
    """What a training of the adapter's domain takes from elsewhere, by what it is."""
    others = {domain: name for domain, name in gone_on_from(manifest).items() if domain != adapter.domain}
    state = manifest.states.get(adapter.facts.learner, "") if manifest else ""
    return others | ({f"state of {adapter.facts.learner}": state} if state else {})


def next_states(current: Manifest | None, change: Change, settled: Sequence[Adapter]) -> dict[str, str]:
    """Return the methods' states after a change; none after a removal, as what they have of a domain is unknown."""
    if change.states is not None:
        return dict(change.states)
    states = dict(current.states) if current is not None and not change.removes else {}
    return states | {each.facts.learner: each.facts.state for each in settled if each.facts.state}


def next_delta(current: Manifest | None, change: Change, routes: Mapping[str, Route], registry: Registry) -> str:
    """Return the change of the base that the versions which a change puts in service were judged on; that all others
    were is for the registry to check. None where nothing is in service."""
    if not routes:
        return ""
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
