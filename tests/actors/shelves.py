"""Replicas without an engine: each reads a manifest with all that it names, and puts it in force by one swap."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import safetensors.numpy

from actors.directive import PublicationReport
from actors.errors import PublicationFailed
from learning.rls import RouterWeights
from learning.served_router import ServedRouter
from registry.errors import RegistryError
from registry.registry import Registry
from serving.api import ReplicaStatus


class Shelf:
    """One replica's stand-in."""

    def __init__(self, registry: Registry) -> None:
        self._registry = registry
        self.refuses: set[str] = set()
        """Adapter names, or domains, that can't be loaded."""
        self.takes_changes = True
        """Whether it could go on with a changed base."""
        self.number = 0
        self.adapters: dict[str, dict[str, np.ndarray]] = {}
        self.weights: RouterWeights | None = None
        self._prepared: tuple[int, dict[str, dict[str, np.ndarray]], RouterWeights | None] | None = None
        current = registry.current()
        if current is not None:
            self.prepare(current.number)
            self.commit(current.number)

    def prepare(self, number: int) -> None:
        manifest = self._registry.manifest(number)
        if manifest.base.delta and not self.takes_changes:
            raise RegistryError("it was started with another base")
        adapters = {}
        for domain, route in manifest.routes.items():
            if domain in self.refuses or self.refuses.intersection(route.names):
                raise RegistryError(f"{route.adapter} does not fit")
            for name in route.names:
                adapter = self._registry.adapter(name)
                adapter.verify()
                weights = safetensors.numpy.load_file(adapter.path / "adapter_model.safetensors")
                if name == route.adapter:
                    adapters[domain] = weights
        router = ServedRouter.from_bytes(self._registry.weights(manifest)).weights if manifest.router else None
        self._prepared = (number, adapters, router)

    def commit(self, number: int) -> None:
        if self._prepared is None or self._prepared[0] != number:
            raise AssertionError(f"commit of {number}, prepared is {self._prepared and self._prepared[0]}")
        self.number, self.adapters, self.weights = self._prepared


class Replicas:
    """The directory port over shelves in this process, in two phases."""

    def __init__(self, shelves: Sequence[Shelf]) -> None:
        self.shelves = list(shelves)
        self.published: list[int] = []
        self._in_force = max((shelf.number for shelf in self.shelves), default=0)

    def in_force(self) -> int:
        return self._in_force

    def publish(self, number: int, one_by_one: bool = False) -> PublicationReport:
        ready, failures = [], {}
        for index, shelf in enumerate(self.shelves):
            try:
                shelf.prepare(number)
                ready.append(shelf)
            except RegistryError as error:
                failures[str(index)] = str(error)
        if self.shelves and not ready:
            raise PublicationFailed(f"manifest {number}: no replica could prepare it: {failures}")
        for shelf in ready:
            shelf.commit(number)
        self._in_force = number
        self.published.append(number)
        return PublicationReport(number, len(ready), failures, 0.0)

    def replicas(self) -> dict[str, ReplicaStatus]:
        return {str(index): ReplicaStatus(manifest=shelf.number) for index, shelf in enumerate(self.shelves)}
