"""What must hold of the segments of a world's domains: what each version serves beside, whose rows each column of the
router has, and what every exam asks.

The books say which examples each version was made of and beside which others; from that alone follow the state that it
serves with, the rows of its segment, and its exam.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from actors.exam import exam_from_bytes
from actors.observation import OpenDomain
from learning.contract import Example
from registry.manifest import column
from tests.actors.house import RIDGE
from tests.actors.witness import Settled
from tests.actors.world import DOMAINS, World, Wrong


def judge_segments(world: World) -> None:
    """Raise `Wrong` for the first thing that does not hold."""
    for domain in DOMAINS:
        versions = world.versions(domain)
        judge_numbers(domain, versions)
        judge_state(world, domain, versions)
        judge_exams(world, domain, versions)
    judge_columns(world)


def judge_numbers(domain: str, versions: list[Settled]) -> None:
    """A version is of a segment that it was made beside, or of one that never was."""
    given: set[int] = set()
    for version in versions:
        fits = version.segment in version.before or version.segment not in given
        _claim(fits, f"{domain}: {version.adapter} is of segment {version.segment} again, beside {version.before}")
        given |= set(version.state)


def judge_state(world: World, domain: str, versions: list[Settled]) -> None:
    """What is in service is what its newest version was made beside."""
    current = world.registry.current()
    route = current.routes.get(domain) if current else None
    if route is None:
        return
    states = {version.adapter: dict(version.state) for version in versions}
    found = {number: placed.adapter for number, placed in route.segments.items()}
    _claim(found == states[route.adapter], f"{domain} serves {found}, {route.adapter} was made for {states}")


def judge_exams(world: World, domain: str, versions: list[Settled]) -> None:
    """Each version's exam is chosen of all that was held out of its segment up to it; nobody has trained on it."""
    exams: dict[str, list[Example]] = {}
    trained = {example.id for version in versions for example in version.train}
    adapters = {adapter.name: adapter for adapter in world.registry.adapters(domain)}
    for version in versions:
        continued = exams.get(version.before.get(version.segment, ""), [])
        exams[version.adapter] = world.exams.chosen(domain, [*continued, *version.held_out])
        adapter = adapters.get(version.adapter)
        if adapter is None:
            continue
        found = exam_from_bytes(adapter.exam(), adapter.name)
        _claim(not trained & {e.id for e in found}, f"{domain}: the exam of {adapter.name} was trained on")
        _claim(
            found == exams[version.adapter],
            f"{domain}: the exam of {adapter.name} asks {_ids(found)}, expected {_ids(exams[version.adapter])}",
        )


def judge_columns(world: World) -> None:
    """Each column's weights are those of a batch solve whose targets are the rows that versions of its segment have
    settled, with what waits for the last one. A domain that ever lost an example is judged whole: where its rows count
    follows from when they were lost."""
    router, current = world.router.inner, world.registry.current()
    served = router.router._sums.served(current.routes) if current else None
    columns = _columns(world, current.routes if current else {})
    if served is None or not columns:
        return
    places, extract = world.books.places, world.parts.extractor.extract
    rows = [row for known in router.counted.values() for row in known.values() if not row.held_out]
    phi_ND = extract([str(world.at[(places[row].partition, places[row].offset)].prompt) for row in rows])
    target_NK = np.array([[float(row.digest in columns[name]) for name in sorted(columns)] for row in rows])
    gram_DD = phi_ND.T @ phi_ND + RIDGE * np.eye(phi_ND.shape[1])
    expected_DK = np.linalg.solve(gram_DD, phi_ND.T @ target_NK)
    names = served.weights.domains
    found_DK = np.stack(
        [
            served.weights.weight_DK[:, [names.index(each) for each in _parts(name, names, columns)]].sum(axis=1)
            for name in sorted(columns)
        ],
        axis=1,
    )
    difference = float(np.abs(found_DK - expected_DK).max())
    _claim(difference <= 1e-9, f"columns {sorted(columns)} differ from the batch solve by {difference}")


def _columns(world: World, routes: Mapping[str, object]) -> dict[str, set[bytes]]:
    """By column, the digests of its rows; by domain alone where an example of it was ever lost."""
    found: dict[str, set[bytes]] = {}
    for domain in routes:
        counted = world.router.inner.counted.get(domain, {})
        lost = world.router.open().get(domain, OpenDomain()).lost
        moved = any(world.books.places[row] != row for row in counted.values())
        segments = world.registry.current().routes[domain].segments  # type: ignore[union-attr]
        own: dict[int, set[bytes]] = {}
        for version in world.versions(domain):
            own.setdefault(version.segment, set()).update(version.digests)
        left = {digest for digest, row in counted.items() if not row.held_out} - set().union(*own.values())
        if lost or moved:
            if set(own) <= set(segments):
                found[f"{domain}*"] = {digest for digest, row in counted.items() if not row.held_out}
            continue
        for number in segments:
            found[column(domain, number)] = own[number] | (left if number == max(segments) else set())
    return found


def _parts(name: str, names: tuple[str, ...], columns: Mapping[str, object]) -> list[str]:
    """The router's own columns that make one judged column."""
    domain = name.removesuffix("*")
    return [name] if name in names else [each for each in names if each.partition("#")[0] == domain]


def _ids(examples: list[Example]) -> list[str]:
    return [example.id for example in examples]


def _claim(holds: bool, otherwise: str) -> None:
    if not holds:
        raise Wrong(otherwise)
