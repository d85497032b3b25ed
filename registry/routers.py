"""The weights that manifests route with: immutable files named by the sha256 of their content.

What this module does not know: what is in them, and which are in service.
"""

import hashlib

from registry.errors import DigestMismatch, RegistryError
from registry.layout import Layout
from registry.manifest import RouterRef


def read_weights(layout: Layout, number: int, router: RouterRef) -> bytes:
    """The weights that manifest `number` names; DigestMismatch unless they are what was written, RegistryError if they
    can't be read."""
    path = layout.place(router.path)
    try:
        content = path.read()
    except OSError as error:
        raise RegistryError(f"manifest {number}: router weights in {path}: {error}; restore the file") from error
    found = hashlib.sha256(content).hexdigest()
    if found != router.digest:
        raise DigestMismatch(
            f"manifest {number}: router weights in {path}: expected sha256 {router.digest}, got {found}; "
            "the file was changed: restore it"
        )
    return content


def place_weights(layout: Layout, router: RouterRef, weights: bytes) -> None:
    """Keep the weights under the name that `router` gives them, durably."""
    layout.storage.keep(router.path, [weights], router.digest)
