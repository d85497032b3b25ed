"""The publisher: brings a change into force, and the replicas to what is in force, whoever committed it.

While the directory is away nothing new is brought into force: what the registry calls current is then what replicas
serve, together or each by itself. What was committed is a fact: replicas are led to it for as long as it takes. A
version that no replica can load is taken back under a new number. It does not know why a version is to be served.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from contextlib import suppress

from actors.change import Change
from actors.errors import PublicationFailed, in_words
from actors.ports import ManifestPort, ReplicasPort
from actors.stage import Pause
from actors.withdrawal import put_back
from registry.errors import UnknownManifest
from registry.manifest import Manifest
from registry.registry import Registry


class Publisher:
    """`writing` is held while a change is committed and the replicas are led to it, one at a time; `numbering` while
    versions get their numbers and while changes are committed: a removal covers every number that was given."""

    def __init__(self, registry: Registry, router: ManifestPort, directory: ReplicasPort) -> None:
        self._registry, self._router, self._directory = registry, router, directory
        self.writing, self.numbering = threading.RLock(), threading.RLock()
        self.pause = Pause()
        """Until replicas that could not be led are tried again."""
        self._trouble: str | None = None

    def publish(self, decide: Callable[[], Change]) -> Manifest:
        """Bring a change into force, and the replicas to it as far as they can be reached: it has succeeded when it is
        committed. `decide` returns it, called when it is certain that nothing else is committed in between.

        Raises the directory's error while that is away, the router's where it refuses the change; nothing has changed
        then. Raises `PublicationFailed` after a version that no replica can load was taken back.
        """
        with self.writing:
            try:
                self.lead()
            except PublicationFailed as error:
                # The directory is there, and what it could not bring about does not keep the next change waiting.
                self._note(error)
            with self.numbering:
                manifest = self._router.publish(decide())
            try:
                self.lead()
            except PublicationFailed as error:
                self._note(error)
                if self._current_number() != manifest.number:
                    raise
            except Exception as error:
                self._note(error)
            return manifest

    def lead(self) -> None:
        """Bring the replicas to the manifest in force, where they don't stand on it.

        Raises `PublicationFailed` where none can take it, after what is new in it was taken back; else the directory's
        error, to be tried again.
        """
        with self.writing:
            in_force = self._directory.in_force()
            current = self._registry.current()
            if current is not None and self._is_behind(in_force, current):
                try:
                    self._lead_to(current)
                except PublicationFailed:
                    self._put_back(current)
                    raise
            self.pause.end()
            self._trouble = None

    def lead_on(self) -> None:
        """Lead once the pause after the last failure is over; what fails is noted and tried again."""
        if not self.pause.is_over():
            return
        try:
            self.lead()
        except Exception as error:
            self._note(error)

    def trouble(self) -> str | None:
        """Say why the replicas do not stand on the manifest in force, or None."""
        trouble = self._trouble
        if trouble is None:
            return None
        return f"replicas are led to manifest {self._current_number()} in vain: {trouble}; next try in {self._wait()} s"

    def _wait(self) -> str:
        return f"{self.pause.left():.0f}"

    def _note(self, error: Exception) -> None:
        self._trouble = in_words(error)
        self.pause.lengthen(error)

    def _current_number(self) -> int:
        current = self._registry.current()
        return current.number if current else 0

    def _is_behind(self, in_force: int, current: Manifest) -> bool:
        """Tell whether the directory does not lead to what is in force, or nobody has come there yet: one by one the
        directory leads replicas itself, but only all of them together can find that nobody can take a manifest."""
        served = self._served()
        return in_force < current.number or (bool(served) and max(served) < current.number)

    def _served(self) -> list[int]:
        """Return the manifests that replicas answer from."""
        replicas = self._directory.replicas().values()
        return [replica.manifest for replica in replicas if replica.manifest and not replica.fenced]

    def _put_back(self, failed: Manifest) -> None:
        """Take back what is new in a manifest that no replica can take, and lead the replicas on."""
        try:
            before = self._before(failed)
        except UnknownManifest:
            # Of what is new nobody can tell any more.
            return
        if (change := put_back(failed, before)) is not None:
            self._lead_to(self._router.publish(change))

    def _lead_to(self, manifest: Manifest) -> None:
        """Have the directory lead the replicas there: one by one where one of them has to change its base for it."""
        bases = set()
        for number in self._served():
            with suppress(UnknownManifest):
                # What base a pruned one was for nobody can tell any more.
                bases.add(self._registry.manifest(number).base.weights)
        self._directory.publish(manifest.number, one_by_one=bool(bases - {manifest.base.weights}))

    def _before(self, failed: Manifest) -> Manifest | None:
        """Return the manifest that the replicas serve on, where none says so the one before; None before the first."""
        number = max((served for served in self._served() if served < failed.number), default=failed.parent)
        return self._registry.manifest(number) if number is not None else None
