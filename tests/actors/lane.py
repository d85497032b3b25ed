"""A house whose learner has one lane, over a home that it may come back to."""

from __future__ import annotations

from dataclasses import replace

from actors.candidates import Method
from actors.coordinator import CoordinatorOptions
from registry.adapters import Adapter
from registry.manifest import Manifest
from streaming.records import EndOfDomain
from tests.actors.house import House, records_of
from tests.actors.sharing import SharingLearner, shared_row, trainings


class LaneHouse(House):
    """Fed, moved and looked at as any house, and asked for what the trainings share."""

    learner: SharingLearner

    def coordinator_options(self) -> CoordinatorOptions:
        return replace(super().coordinator_options(), method=Method("sharing", seed=1, one_lane=True))

    def employ(self, learner: object) -> None:
        if not hasattr(self, "learner"):
            self.learner = SharingLearner()
        super().employ(self.learner)

    def feed(self, *domains: str, start: int = 0) -> None:
        for domain in domains:
            self.send([*records_of(domain, 8, start=start), EndOfDomain(domain=domain)])

    def adapters(self) -> list[Adapter]:
        """Those in service."""
        return [self.registry.adapter(name) for route in self.current.routes.values() for name in route.names]

    def trainings(self) -> list[str]:
        """Those that led to the state in force."""
        return trainings(self.registry.states.path(self.current.states["sharing"]))

    def check_one(self) -> None:
        """All that serves has the part that the last training left, and so has the base where that is changed."""
        assert self.current.routes
        check_one(self, self.current)

    def check_never_half(self) -> None:
        """In every manifest all that serves has the same shared part."""
        for manifest in self.registry.manifests():
            check_one(self, manifest)


def check_one(house: House, manifest: Manifest) -> None:
    """All that serves has the part that one training left, and so has the base where that is changed."""
    names = [name for route in manifest.routes.values() for name in route.names]
    rows = {shared_row(house.registry.adapter(name).path) for name in names}
    assert len(rows) <= 1, f"manifest {manifest.number} serves parts of several trainings: {names}"
    if delta := manifest.base.delta:
        assert not rows or rows == {shared_row(house.registry.bases.path(delta))}
    for name in manifest.states.values():
        house.registry.states.verify(name)


def versions(house: House) -> dict[str, int]:
    return {domain: route.version for domain, route in house.current.routes.items()}
