"""What follows from what is in force, in the background: leading replicas, deleting files, joining small ones.

Level-triggered, and never in the way: each pass does what is due then, and what fails is tried again by a later one.
"""

from __future__ import annotations

import time
from dataclasses import dataclass

from actors.errors import in_words
from actors.ports import ManifestPort, ReplicasPort
from actors.publisher import Publisher
from actors.stage import Pause
from registry.registry import Registry

_TIDY_EVERY_S = 60.0


@dataclass(frozen=True)
class Keep:
    """Snapshots, manifests, and versions of each domain that are kept."""

    snapshots: int
    manifests: int
    versions: int


class Upkeep:
    """One pass at a time; `trouble` says what could not be done last."""

    def __init__(
        self, registry: Registry, router: ManifestPort, directory: ReplicasPort, publisher: Publisher, keep: Keep
    ) -> None:
        self._registry, self._router, self._directory = registry, router, directory
        self._publisher, self._keep = publisher, keep
        self._pause = Pause()
        self._pruned: tuple[int, int | None] | None = None
        """The snapshot in force and the lowest manifest served when files were last deleted."""
        self._tidy_at = time.monotonic() + _TIDY_EVERY_S
        self.trouble: str | None = None

    def go_over(self, *, is_idle: bool) -> None:
        """Lead the replicas; delete what is not needed; with nothing else to do (`is_idle`), join small files."""
        self._publisher.lead_on()
        if not self._pause.is_over():
            return
        try:
            self._prune()
            if is_idle and time.monotonic() >= self._tidy_at:
                self._tidy_at = time.monotonic() + _TIDY_EVERY_S
                self._router.tidy()
        except Exception as error:
            # No fault of what is in service; a later pass tries again.
            self.trouble = f"files that are not needed any more stay: {in_words(error)}"
            self._pause.lengthen(error)
        else:
            self.trouble = None
            self._pause.end()

    def prune_again(self) -> None:
        """Let the next pass look for files to delete although nothing was published."""
        self._pruned = None

    def _prune(self) -> None:
        head = self._registry.head()
        if head.snapshot == 0:
            return
        replicas = self._directory.replicas().values()
        serving = min((r.manifest for r in replicas if r.manifest and not r.fenced), default=None)
        stands = (head.snapshot, serving)
        if stands == self._pruned:
            return
        self._registry.prune(self._keep.snapshots, self._keep.manifests, self._keep.versions, serving=serving)
        self._pruned = stands
