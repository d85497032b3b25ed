"""What goes back when no replica can take a manifest. Pure: it follows from that manifest and the one they serve.

Kept nowhere but in the manifests: whoever finds the replicas behind, also after a restart, comes to the same.
"""

from __future__ import annotations

from actors.change import Change
from registry.manifest import Manifest, Route


def put_back(failed: Manifest, before: Manifest | None) -> list[Change]:
    """Return the changes that give each domain the route again that it had in `before`, which replicas still serve.

    A version that was learned is withdrawn, to be tried again; one that an operator chose is not: its command failed.
    What waited before or was learned since waits on. Clearing a pin can't fail: it stays cleared, whatever is put back.
    Where nothing new was put in service there is nothing to put back.
    """
    routes = before.routes if before else {}
    withdrawn = before.withdrawn if before else {}
    changes = []
    for domain, route in sorted(failed.routes.items()):
        tombstone = failed.removed.get(domain)
        earlier = routes.get(domain)
        if earlier is not None and tombstone is not None and earlier.version <= tombstone.version:
            earlier = None
        if earlier is not None and earlier.adapter == route.adapter:
            continue
        if earlier is not None and failed.withdrawn.get(domain) == earlier.adapter:
            # It has just been put back itself.
            continue
        changes.append(_back(domain, route, earlier, failed.withdrawn.get(domain), withdrawn.get(domain)))
    return changes


def _back(domain: str, failed: Route, earlier: Route | None, waits: str | None, waited: str | None) -> Change:
    """Return the change of one domain; `waits` is what waits by the manifest that failed, `waited` by that before."""
    chosen = failed.pinned and earlier is not None
    name = waits or (waited if chosen else failed.adapter)
    withdraws = {domain: name} if name else {}
    reason = f"{failed.adapter} could not be loaded"
    if earlier is None:
        return Change(reason=reason, withdraws=withdraws)
    return Change(
        reason=reason,
        domain=domain,
        adapter=earlier.adapter,
        pinned=failed.pinned and earlier.pinned,
        override=True,
        withdraws=withdraws,
    )
