"""What is simulated: clusters of 10, 100 and 1,000 GPUs, the changes of design, and the search for what saturates.

A scenario is asked for its target times a load, and saturates at the least load at which a station is busy for
`SATURATED` of the time; that station is named. A change of design answers to the station that it relieves, so `climb`
takes them in the order in which the simulation asks for them. Knows nothing of files.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from benchmarks.scale.model import LOOPS, Design, Scenario, Simulation

SATURATED = 0.95
LEAST_LOAD, MOST_LOAD = 2.0**-7, 2.0
_HALVINGS = 4
"""Steps by which the load is narrowed down within a factor of two: to 4.4 percent."""
_SHORTEST_S, _LONGEST_S = 120.0, 960.0
_CLOSINGS = 40
"""Domains that are to be complete within a run, as far as `_LONGEST_S` lets them."""

CHANGES: dict[str, dict[str, Any]] = {
    "sharded sums": {"shards": True},
    "publication windows of 30 s": {"window_s": 30.0},
    "homes of domains": {"homes": 2},
    "tree of directories": {"leaves": 24},
    "ledgers by partition": {"ledgers": 4},
}
_RELIEVES = {
    "router": ("sharded sums", "ledgers by partition"),
    "router link": ("sharded sums",),
    "registry storage": ("homes of domains", "publication windows of 30 s"),
    "publisher": ("publication windows of 30 s",),
    "directory": ("tree of directories",),
    LOOPS: (),
}
_WAITING = ("publisher", LOOPS)
"""Stations that are busy while others work for them."""
_PART_OF = {"merge": "router", "solve_and_commit": "router", "prepare": "registry storage", "swap": "directory"}


def cluster(gpus: int) -> Scenario:
    """A hundred records and ten requests a second for each GPU, and a domain; at 1,000 GPUs the target."""
    replicas, learners = round(0.6 * gpus), round(0.28 * gpus)
    return Scenario(
        name=f"{gpus} GPUs",
        gpus=gpus,
        domains=gpus,
        records_s=100.0 * gpus,
        requests_s=10.0 * gpus,
        replicas=replicas,
        learners=learners,
        ingest_gpus=gpus - replicas - learners,
        workers=max(2, gpus // 2),
    )


def at_load(scenario: Scenario, load: float) -> Scenario:
    """The scenario with so many times its records and requests, and as long as there is something to see."""
    closings_s = max(scenario.closings_s * load, 1e-9)
    return replace(
        scenario,
        records_s=scenario.records_s * load,
        requests_s=scenario.requests_s * load,
        seconds=float(np.clip(_CLOSINGS / closings_s, _SHORTEST_S, _LONGEST_S)),
    )


def fullest(result: Mapping[str, Any]) -> tuple[str, float]:
    """The busiest station with its utilisation; one that waits for others only where none of those is full."""
    busy = {name: float(each["utilisation"]) for name, each in result["stations"].items()}
    waiting = {name: busy.pop(name) for name in _WAITING}
    name = max(busy, key=busy.__getitem__)
    if busy[name] < SATURATED:
        name = next((each for each in _WAITING if waiting[each] >= SATURATED), name)
    return name, (busy | waiting)[name]


@dataclass
class Saturation:
    """What a search has found; `runs` by load."""

    design: Design
    load: float = MOST_LOAD
    station: str | None = None
    """None: nothing saturates up to `MOST_LOAD`. At `LEAST_LOAD` it may have saturated below."""
    runs: dict[float, dict[str, Any]] = field(default_factory=dict)

    def summary(self) -> dict[str, Any]:
        """JSON-able: of each run what a picture shows, of the one at saturation everything."""
        curve = [
            {
                "load": load,
                "utilisation": {name: each["utilisation"] for name, each in run["stations"].items()},
                "last_record_to_routed": run["last_record_to_routed"],
                "requests": run["requests"],
            }
            for load, run in sorted(self.runs.items())
        ]
        return {"load": self.load, "station": self.station, "at_saturation": self.runs[self.load], "curve": curve}


def saturation(scenario: Scenario, design: Design, constants: Mapping[str, Any]) -> Saturation:
    """Double the load until something saturates, then narrow it down."""
    found = Saturation(design)

    def is_full(load: float) -> bool:
        found.runs[load] = run = Simulation(at_load(scenario, load), design, constants).run()
        return fullest(run)[1] >= SATURATED

    high = LEAST_LOAD
    while not is_full(high):
        if high >= MOST_LOAD:
            return found
        high *= 2.0
    low = high / 2.0
    for _ in range(_HALVINGS if high > LEAST_LOAD else 0):
        middle = (low * high) ** 0.5
        low, high = (low, middle) if is_full(middle) else (middle, high)
    found.load, found.station = high, fullest(found.runs[high])[0]
    return found


def changed(design: Design, change: str) -> Design:
    """The design with one change more."""
    return replace(design, **CHANGES[change])


def answer_to(found: Saturation, taken: tuple[str, ...]) -> str | None:
    """The change that relieves what has saturated, or of a publisher that has its window the longest part of its work;
    None where more machines are the only answer."""
    station = found.station or ""
    mean = found.runs[found.load]["publications"]["mean"]
    stations = [station]
    if station == "publisher" and mean:
        stations.append(_PART_OF[max(_PART_OF, key=lambda part: float(mean[part]))])
    wanted = [change for each in stations for change in _RELIEVES.get(each, ())]
    return next((change for change in wanted if change not in taken), None)


def climb(scenario: Scenario, constants: Mapping[str, Any]) -> list[tuple[str | None, Saturation]]:
    """What saturates as built, and after each change that answers to it, until the target is borne."""
    taken: tuple[str, ...] = ()
    steps: list[tuple[str | None, Saturation]] = [(None, saturation(scenario, Design(), constants))]
    while steps[-1][1].load <= 1.0 and (change := answer_to(steps[-1][1], taken)) is not None:
        taken = (*taken, change)
        steps.append((change, saturation(scenario, changed(steps[-1][1].design, change), constants)))
    return steps
