"""What goes back when no replica can take a manifest. Pure: it follows from that manifest and the one they serve.

Kept nowhere but in the manifests: whoever finds the replicas behind, also after a restart, comes to the same.
"""

from __future__ import annotations

from actors.change import Change
from registry.manifest import Manifest, Route


def put_back(failed: Manifest, before: Manifest | None) -> Change | None:
    """Return the change that gives each domain the route again that it had in `before`, which replicas still serve.

    A version that was learned is withdrawn, to be tried again; one that an operator chose is not: its command failed.
    What waited before or was learned since waits on. Clearing a pin can't fail: it stays cleared, whatever is put back.
    None where nothing new was put in service. All goes back at once, as what was made together may not fit what was
    there before.
    """
    routes = before.routes if before else {}
    waited = before.withdrawn if before else {}
    puts: dict[str, str] = {}
    pins: dict[str, bool] = {}
    withdraws: dict[str, str] = {}
    new: list[str] = []
    for domain, route in sorted(failed.routes.items()):
        earlier, waits = _earlier(failed, domain, routes.get(domain)), failed.withdrawn.get(domain)
        if earlier is not None and earlier.adapter in (route.adapter, waits):
            # It is there, or has just been put back itself.
            continue
        new.append(route.adapter)
        if name := waits or (waited.get(domain) if route.pinned and earlier is not None else route.adapter):
            withdraws[domain] = name
        if earlier is not None:
            puts[domain], pins[domain] = earlier.adapter, route.pinned and earlier.pinned
    if not new:
        return None
    reason = f"{', '.join(new)} could not be loaded"
    return Change(reason, puts=puts, pins=pins, override=True, withdraws=withdraws)


def _earlier(failed: Manifest, domain: str, route: Route | None) -> Route | None:
    """Return the route that a domain had, unless it is of before the domain's removal."""
    tombstone = failed.removed.get(domain)
    return None if route is None or (tombstone is not None and route.version <= tombstone.version) else route
