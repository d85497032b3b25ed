"""What follows from what is in force, in the background: leading replicas, making weights anew with other options,
deleting files and checkpoints, joining small ones.

Level-triggered, and never in the way: each pass does what is due then, and what fails is tried again by a later one.
"""

from __future__ import annotations

import time
from dataclasses import dataclass

from actors.change import Change
from actors.errors import in_words
from actors.ports import ManifestPort, ReplicasPort
from actors.publisher import Publisher
from actors.stage import Pause
from actors.unfinished import Unfinished, name_of
from registry.registry import Registry

_TIDY_EVERY_S = 60.0


@dataclass(frozen=True)
class Keep:
    """Snapshots, manifests, and versions of each domain that are kept."""

    snapshots: int
    manifests: int
    versions: int


class Upkeep:
    """One pass at a time."""

    def __init__(
        self,
        registry: Registry,
        router: ManifestPort,
        directory: ReplicasPort,
        publisher: Publisher,
        keep: Keep,
        unfinished: Unfinished | None = None,
    ) -> None:
        self._registry, self._router, self._directory = registry, router, directory
        self._publisher, self._keep, self._unfinished = publisher, keep, unfinished
        self._pause, self._renewing = Pause(), Pause()
        self._asked = 0
        """How often somebody has asked for files to be deleted although nothing was published."""
        self._pruned: tuple[int, int | None, int] | None = None
        """What stood when files were last deleted, noted before: snapshot in force, lowest manifest served, asked."""
        self._damage: str | None = None
        """What was found damaged then of the manifests before the one in force."""
        self._outdated: str | None = None
        """Why prompts are still routed by weights of other options."""
        self._untidy: str | None = None
        """Why files stay that are not needed, or what was found damaged."""
        self._tidy_at = time.monotonic() + _TIDY_EVERY_S

    @property
    def trouble(self) -> str | None:
        """What could not be done last, and what was found damaged; None where all is well."""
        return "; ".join(trouble for trouble in (self._outdated, self._untidy) if trouble) or None

    def go_over(self, *, is_idle: bool) -> None:
        """Lead the replicas; publish weights of other options anew; delete what is not needed; with nothing else to do
        (`is_idle`), join small files."""
        self._publisher.lead_on()
        if self._renewing.is_over():
            self._renew()
        if self._pause.is_over():
            self._tidy(is_idle=is_idle)

    def _renew(self) -> None:
        try:
            is_outdated = self._router.is_outdated()
        except Exception:
            # Whoever looks at the whole says who does not answer.
            return
        try:
            if is_outdated:
                self._publisher.publish(lambda: Change("router options changed"))
        except Exception as error:
            self._outdated = f"the router is not made anew with other options: {in_words(error)}"
            self._renewing.lengthen(error)
        else:
            self._outdated = None
            self._renewing.end()

    def _tidy(self, *, is_idle: bool) -> None:
        try:
            self._prune()
            self._drop_unfinished()
            if is_idle and time.monotonic() >= self._tidy_at:
                self._tidy_at = time.monotonic() + _TIDY_EVERY_S
                self._router.tidy()
                if self._damage is not None:
                    # Somebody may have mended it.
                    self.prune_again()
        except Exception as error:
            # No fault of what is in service; a later pass tries again.
            self._untidy = f"files that are not needed any more stay: {in_words(error)}"
            self._pause.lengthen(error)
        else:
            self._untidy = self._damage
            self._pause.end()

    def _drop_unfinished(self) -> None:
        """Delete what was kept of trainings that are done, or whose rows are not sealed for them any more."""
        if self._unfinished is None or not (names := self._unfinished.names()):
            return
        # Asked after: a training that began meanwhile is not among the names.
        sealed = {domain: each.seal.version for domain, each in self._router.open().items() if each.seal}
        unlearned = {d: version for d, version in sealed.items() if not self._registry.has_version(d, version)}
        self._unfinished.keep_only(names, {name_of(domain, version) for domain, version in unlearned.items()})

    def prune_again(self) -> None:
        """Let the next pass look for files to delete although nothing was published."""
        self._asked += 1

    def _prune(self) -> None:
        head = self._registry.head()
        if head.snapshot == 0:
            return
        replicas = self._directory.replicas().values()
        serving = min((r.manifest for r in replicas if r.manifest and not r.fenced), default=None)
        # Noted before: what comes in while files are deleted is looked at by the next pass.
        stands = (head.snapshot, serving, self._asked)
        if stands == self._pruned:
            return
        self._registry.prune(self._keep.snapshots, self._keep.manifests, self._keep.versions, serving=serving)
        damaged = self._registry.chain().damaged.values()
        self._damage = "; ".join(f"{in_words(error)}; restore it from a backup" for error in damaged) or None
        self._pruned = stands
