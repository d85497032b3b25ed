"""What an operator may ask for: removal, rollback, pin, unpin. Each is one commit, and may be repeated.

A command has succeeded when it is committed: what follows at spools, replicas and files follows from what is in force.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from actors.change import Change, gone_on_from
from actors.errors import PublicationFailed, UnknownDomain, in_words
from actors.ports import ManifestPort
from actors.publisher import Publisher
from actors.spools import Spools
from registry.adapters import Adapter, parsed_name
from registry.errors import RegistryError
from registry.manifest import Manifest
from registry.registry import Registry


class Commands:
    """The commands on domains, over a registry that the publisher alone changes."""

    def __init__(self, registry: Registry, router: ManifestPort, spools: Spools, publisher: Publisher) -> None:
        self._registry, self._router, self._spools, self._publisher = registry, router, spools, publisher

    def next_version(self, domain: str) -> int:
        """Return the number of the domain's next version; the publisher's `numbering` is held until it is given."""
        waiting = self._router.open().get(domain)
        sealed = waiting.seal.version if waiting and waiting.seal else 0
        return max(self._registry.newest_version(domain), self._oldest(domain), sealed) + 1

    def remove(self, domain: str) -> Manifest:
        """Take a domain out of service, the sums and the ledger, with all that lies of it in the stream, read or not.

        The stream's end is as seen up to five seconds before; examples behind it begin the domain anew. Of a domain
        that was removed and of which nothing was read since, nothing is changed.
        """
        self._spools.ask()
        with self._publisher.writing:
            known, current = self._known(), self._registry.current()
            if domain in known:
                return self._publisher.publish(lambda: self._removal(domain))
            if current is not None and domain in current.removed:
                return current
            raise UnknownDomain(f"domain {domain!r} is not known; known: {sorted(known) or 'none'}")

    def rollback(self, domain: str, version: str | None = None) -> Manifest:
        """Put an earlier version back in service and pin it; without `version`, the accepted one before the present.

        Where that was judged on another change of the base, the base goes back to that, and with it all other domains
        to what they had on it, unpinned. What was in service until then does not come back by itself, nor does what
        waits on the base of until then. Else one that was learned under a pin waits on.
        """
        with self._publisher.writing:
            name, passed_over = (version, "") if version else self._version_before(domain)
            change = self._putting(domain, name, f"rolled back to {name}", passed_over)
            return self._publisher.publish(lambda: change)

    def _putting(self, domain: str, name: str, what: str, passed_over: str = "") -> Change:
        """Return what puts a version in service by name and pins it, with the base that it was judged on."""
        self._check_servable(domain, name)
        others, states = self._on_its_base(domain, name)
        with_it = f" with {', '.join(['its base', *others.values()])}" if states is not None else ""
        pins = {**dict.fromkeys(others, False), domain: True}
        reason = f"{what}{with_it}{passed_over}"
        return Change(reason, puts={**others, domain: name}, pins=pins, override=True, states=states)

    def _on_its_base(self, domain: str, name: str) -> tuple[dict[str, str], Mapping[str, str] | None]:
        """Return the versions that other domains had beside one of this domain on another change of the base, and the
        states of that time; nothing where it is on the one in service.

        Raises `UnknownDomain` where not all that is in service was there on it, or waits without having been.
        """
        current, delta = self._registry.current(), self._registry.adapter(name).facts.base_delta
        if current is None or current.base.delta == delta:
            return {}, None
        others = {other: route.adapter for other, route in current.routes.items() if other != domain}
        # What waits on the present base could not be served beside what is gone back to.
        known = gone_on_from(current).keys() - {domain}
        missing = set(known)
        for manifest in reversed(self._registry.manifests()):
            route = manifest.routes.get(domain)
            if route is None or route.adapter != name or manifest.base.delta != delta:
                continue
            missing = known - manifest.routes.keys()
            if not missing and manifest.removed == current.removed:
                had = {other: manifest.routes[other].adapter for other in known}
                return {other: had[other] for other in had if had[other] != others.get(other)}, manifest.states
        why = f", on which there is nothing of {', '.join(sorted(missing))}" if missing else ""
        raise UnknownDomain(
            f"{name} can't be served: it was judged on the base changed by {delta[:8] or 'nothing'}{why}; "
            "one may go back to a whole manifest with `anabranch home back`"
        )

    def pin(self, domain: str, version: str | None = None) -> Manifest:
        """Keep the version in service, or the one named, whatever is learned later; the base goes with that, as in a
        rollback."""
        with self._publisher.writing:
            change = Change(f"{domain} pinned", pins={domain: True}, override=True)
            if version is not None:
                change = self._putting(domain, version, f"{domain} pinned")
            return self._publisher.publish(lambda: change)

    def unpin(self, domain: str) -> Manifest:
        """Let newer versions replace the one in service: at once the last one that was learned under the pin.

        Where no replica can load that, the pin is cleared all the same, and the version withdrawn and tried again.
        """
        with self._publisher.writing:
            try:
                return self._publisher.publish(lambda: self._unpinning(domain))
            except PublicationFailed:
                current = self._registry.current()
                route = current.routes.get(domain) if current else None
                if current is None or route is None or route.pinned:
                    raise
                return current

    def _unpinning(self, domain: str) -> Change:
        """Return the end of a pin. Without one there is nothing to do: what no replica could load is tried anyway."""
        current = self._registry.current()
        route = current.routes.get(domain) if current else None
        waiting = current.withdrawn.get(domain) if current and route and route.pinned else None
        if waiting is None or not self._is_readable(waiting):
            return Change(f"{domain} unpinned", pins={domain: False})
        reason = f"{domain} unpinned, {waiting} put in service"
        return Change(reason, puts={domain: waiting}, pins={domain: False}, override=True)

    def _is_readable(self, name: str) -> bool:
        """Tell whether a version is there with those that it serves beside; one that is damaged is withdrawn and named,
        and keeps no pin in force."""
        try:
            self._registry.route(name)
        except RegistryError:
            return False
        return True

    def _removal(self, domain: str) -> Change:
        """Return the removal: it covers all numbers given so far, that of a version being trained included."""
        return Change(f"{domain} removed", removes={domain: self.next_version(domain) - 1}, fence=self._spools.ends())

    def _known(self) -> set[str]:
        current = self._registry.current()
        served = {*current.routes, *current.withdrawn} if current else set()
        return {*self._router.examples(), *self._router.open(), *self._spools.unobserved(), *served}

    def _oldest(self, domain: str) -> int:
        """Return the number up to which versions of the domain may never be served, 0 where there is none."""
        current = self._registry.current()
        tombstone = current.removed.get(domain) if current else None
        return tombstone.version if tombstone else 0

    def _version_before(self, domain: str) -> tuple[str, str]:
        """Return the accepted version before the one in service, and in words what damaged ones lie between."""
        current = self._registry.current()
        route = current.routes.get(domain) if current else None
        if route is None:
            raise UnknownDomain(f"domain {domain!r} is not published; nothing to roll back")
        oldest = self._oldest(domain)
        adapters, damaged = self._registry.survey(domain)
        served = self._router.versions(domain)
        earlier = {
            adapter.version: adapter.name
            for adapter in _with_theirs(adapters)
            if oldest < adapter.version < route.version and adapter.version in served
        }
        found = max(earlier, default=oldest)
        between = [name for name in damaged if found < _version_of(domain, name) < route.version]
        passed_over = f"; damaged and passed over: {', '.join(between)}" if between else ""
        if not earlier:
            raise UnknownDomain(f"domain {domain!r} has no accepted version before v{route.version}{passed_over}")
        return earlier[found], passed_over

    def _check_servable(self, domain: str, name: str) -> None:
        current = self._registry.current()
        tombstone = current.removed.get(domain) if current else None
        adapters, damaged = self._registry.survey(domain)
        oldest = self._oldest(domain)
        accepted = {a.name: a for a in adapters if a.facts.status == "accepted" and a.version > oldest}
        served = self._router.versions(domain)
        names = [each.name for each in _with_theirs(adapters) if each.name in accepted and each.version in served]
        if name in names:
            return
        if name in accepted and accepted[name].version in served:
            missing = sorted({*accepted[name].facts.beside} - {a.name for a in adapters})
            raise UnknownDomain(f"{name} can't be served: it stands beside {', '.join(missing)}, which can't be read")
        if name in accepted:
            raise UnknownDomain(f"{name} can't be served: it is not published yet, or was undone by going back")
        if name in damaged:
            raise UnknownDomain(f"{name} can't be served: {in_words(damaged[name])}")
        if tombstone is not None and 0 < _version_of(domain, name) <= oldest:
            raise UnknownDomain(f"{name} was removed with manifest {tombstone.manifest} and is not served again")
        raise UnknownDomain(f"domain {domain!r} has no accepted version {name!r}; it has: {names or 'none'}")


def _with_theirs(adapters: Sequence[Adapter]) -> list[Adapter]:
    """Those beside which all is there that they serve with: of what is pruned they may be the last to name it."""
    names = {adapter.name for adapter in adapters}
    return [adapter for adapter in adapters if names.issuperset(adapter.facts.beside)]


def _version_of(domain: str, name: str) -> int:
    """Return the version's number by its full name, 0 where it is no name of a version of the domain."""
    found = parsed_name(name)
    return found[1] if found is not None and found[0] == domain else 0
