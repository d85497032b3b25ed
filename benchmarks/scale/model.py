"""The whole system as a discrete-event simulation: who does what for how long, and who waits for whom.

    stream ─► ingest workers ─► ingest GPUs ─► link into the router's node ─► router ─► sums
                                                       │ a domain is complete: seal
                                                       ▼
                                        learner GPUs ─► publisher: solve, commit, prepare everywhere, commit everywhere
                                                       │                       │
    clients ─► replicas ─► answers               registry's storage        directory ◄─ heartbeats of all replicas

One event is a block of rows, a training, a call to the directory or a read of the storage; requests are counted in
ticks (`replicas.py`). A server serves first come first served; several servers of a kind share a queue. What is left
out: the broker, the learners' fetching of rows, failures, the slots of adapters inside the engine's batch, and the
memory of all. Records come evenly of all domains, each block of one of them; requests ask for domains by Zipf's law.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import simpy

from benchmarks.scale.costs import Assumptions, MeasuredCosts
from benchmarks.scale.replicas import Homes, SimulatedReplicas
from benchmarks.scale.stations import EventLoop, Events, Station

WARM_UP = 0.25
"""Share of a run before its window: queues fill meanwhile, trainings under way end."""
LOOPS = "observing loops"
"""Of the ingest workers, each with one block under way: they wait for all that is behind them, so they are full
wherever that is."""
_TICK_S = 0.1


@dataclass(frozen=True)
class Scenario:
    """A cluster and what is asked of it."""

    name: str
    gpus: int
    """Replicas, learners and ingest GPUs together."""
    domains: int
    records_s: float
    """Examples a second, over all partitions."""
    requests_s: float
    """Prompts a second, `model="auto"`."""
    replicas: int
    learners: int
    ingest_gpus: int
    workers: int
    """Ingest workers; each works on one core and observes one block at a time."""
    router_cores: int = 4
    """Cores of the router's matrix work, which is taken to share out evenly over them (preset `cluster`)."""
    closing_rows: int = 20_000
    """Rows of a domain after which it is learned."""
    zipf: float = 1.0
    """Exponent of the domains' shares in requests."""
    dim: int = 4096
    seconds: float = 120.0
    """Simulated; the first `WARM_UP` of it is not measured."""
    seed: int = 0

    @property
    def closings_s(self) -> float:
        """Domains a second that have enough new rows."""
        return self.records_s / self.closing_rows


@dataclass(frozen=True)
class Design:
    """What is built, and by what it may be replaced; the default is the product as it is."""

    shards: bool = False
    """Each ingest worker keeps the sums of the domains whose records it reads, and the router has only the ledger;
    for a publication the workers' totals are added pairwise, level by level."""
    window_s: float = 0.0
    """Seconds of which all accepted domains are published at once; 0 publishes each by itself."""
    homes: int = 0
    """Replicas that load a domain's adapters, more for one that is asked for much; its requests go there. 0: all."""
    leaves: int = 1
    """Directories that the replicas are spread over; a root leads them."""
    ledgers: int = 1
    """Ledgers, each of its own partitions, where the router has only the sums; 1 is the router's own."""


class Simulation:
    """One run of a scenario under a design; `run` may be called once."""

    def __init__(
        self, scenario: Scenario, design: Design, constants: Mapping[str, Any], assumed: Assumptions | None = None
    ) -> None:
        self.scenario, self.design = scenario, design
        self.assumed = assumed or Assumptions()
        self.costs = MeasuredCosts(constants, scenario.dim, scenario.domains)
        self.env = env = simpy.Environment()
        self._random = np.random.default_rng(scenario.seed)
        window = (WARM_UP * scenario.seconds, scenario.seconds)
        self._window = window
        self.stations = {
            "ingest workers": Station(env, scenario.workers, window),
            "ingest GPUs": Station(env, max(scenario.ingest_gpus, 1), window),
            "router link": Station(env, 1, window),
            "router": Station(env, 1, window),
            "learners": Station(env, scenario.learners, window),
            "publisher": Station(env, 1, window),
            "registry storage": Station(env, 1, window),
        }
        if design.ledgers > 1:
            self.stations["ledgers"] = Station(env, design.ledgers, window)
        self._ledger = self.stations["ledgers" if design.ledgers > 1 else "router"]
        leaves = min(design.leaves, scenario.replicas)
        call_s = self.assumed.call_s + self.costs.directive_s
        self._directories = [
            EventLoop(env, call_s, self.costs.wake_s * members, window)
            for members in (*[scenario.replicas / leaves] * leaves, leaves)
        ]
        """The leaves, and last their root, which has nothing to do where there is only one of them."""
        self._loops = simpy.Resource(env, scenario.workers)
        self._loop_busy = 0.0
        homes = Homes.of(scenario.domains, scenario.replicas, design.homes, scenario.zipf, self._random)
        self.replicas = SimulatedReplicas(homes, self.costs, self.assumed, self._random)
        self._accepted: simpy.Store = simpy.Store(env)
        self._publishing_since: float | None = None
        self._open_rows = self._random.integers(0, scenario.closing_rows, scenario.domains)
        self.rows_in = self.rows_folded = 0
        self.published: list[tuple[int | None, float | None, float]] = []
        """Domain, arrival of its last record or None where that lies before the run, and end of its publication."""
        self.publications: list[dict[str, float]] = []
        self.request_s: list[np.ndarray] = []
        self.asked = self.answered = 0

    def run(self) -> dict[str, Any]:
        """Run it and return its figures, JSON-able; seconds unless a key says otherwise."""
        env, scenario = self.env, self.scenario
        env.process(self._stream())
        env.process(self._publisher())
        if scenario.requests_s:
            env.process(self._clients())
        for place in range(scenario.replicas):
            env.process(self._heartbeats(place))
        # Trainings that are under way already: as many as come while one lasts.
        for _ in range(min(scenario.learners, round(scenario.closings_s * self.assumed.train_s))):
            env.process(self._train(int(self._random.integers(scenario.domains)), None, self._random.random()))
        env.run(until=scenario.seconds)
        return self._figures()

    # -- a record's way -----------------------------------------------------------------------------------------------

    def _stream(self) -> Events:
        rows = self.costs.block_rows
        while self.scenario.records_s:
            yield self.env.timeout(self._random.exponential(rows / self.scenario.records_s))
            self.rows_in += rows
            self.env.process(self._block(int(self._random.integers(self.scenario.domains))))

    def _block(self, domain: int) -> Events:
        costs, came, rows = self.costs, self.env.now, self.costs.block_rows
        cores, sharded = self.scenario.router_cores, self.design.shards
        ingest, router = self.stations["ingest workers"], self.stations["router"]
        sums = rows * (costs.observe_s + costs.score_s)
        yield from ingest.work(rows * costs.record_s)
        with self._loops.request() as turn:
            yield turn
            self._loop_busy -= max(self.env.now, self._window[0])
            yield from self._ledger.work(self.assumed.call_s + rows * costs.fates_s, "ledger")
            if self.scenario.ingest_gpus:
                yield from self.stations["ingest GPUs"].work(rows * self.assumed.feature_s)
            counting = self.assumed.call_s + rows * (costs.fates_s + costs.apply_s)
            if sharded:
                yield from ingest.work(sums)
            else:
                yield from self.stations["router link"].work(rows * costs.row_bytes / self.assumed.link_bytes_s)
            if not sharded and self._ledger is router:
                yield from router.work(counting, "ledger")
                yield from router.work(sums / cores, "rows")
            else:
                yield from self._ledger.work(counting, "ledger")
                if not sharded:
                    yield from router.work(self.assumed.call_s + sums / cores, "rows")
            self._loop_busy += max(self.env.now, self._window[0])
        self.rows_folded += rows
        self._open_rows[domain] += rows
        if self._open_rows[domain] >= self.scenario.closing_rows:
            self._open_rows[domain] = 0
            self.env.process(self._learn(domain, came))

    def _learn(self, domain: int, last_record: float) -> Events:
        costs = self.costs
        yield from self._ledger.work(self.assumed.call_s + costs.seal_s, "seals")
        new = min(self.scenario.closing_rows * costs.row_bytes, costs.sums_bytes)
        yield from self.stations["registry storage"].work(new / self.assumed.storage_bytes_s, "sums")
        yield from self._train(domain, last_record, 1.0)

    def _train(self, domain: int, last_record: float | None, share: float) -> Events:
        yield from self.stations["learners"].work(share * self.assumed.train_s)
        self._accepted.put((domain, last_record))

    # -- publication --------------------------------------------------------------------------------------------------

    def _publisher(self) -> Events:
        while True:
            if self.design.window_s:
                yield self.env.timeout(self.design.window_s - self.env.now % self.design.window_s)
            batch = [(yield self._accepted.get())]
            while self.design.window_s and self._accepted.items:
                batch.append((yield self._accepted.get()))
            began = self._publishing_since = self.env.now
            parts = yield self.env.process(self._publish({domain for domain, _ in batch}))
            self._note_publishing()
            if self.env.now >= self._window[0]:
                self.publications.append({"seconds": self.env.now - began, "domains": len(batch), **parts})
                self.published.extend((domain, last, self.env.now) for domain, last in batch)

    def _note_publishing(self) -> None:
        """Count the publisher as busy for as long as a publication lasts, whoever does its work."""
        if self._publishing_since is not None:
            since = max(self._publishing_since, self._window[0])
            self.stations["publisher"].busy += max(0.0, self.env.now - since)
        self._publishing_since = None

    def _publish(self, domains: set[int]) -> Any:
        costs, assumed, storage = self.costs, self.assumed, self.stations["registry storage"]
        marks = [self.env.now]
        if self.design.shards:
            step = costs.sums_bytes / assumed.link_bytes_s + costs.merge_s
            yield self.env.timeout(math.ceil(math.log2(max(self.scenario.workers, 1))) * step)
        marks.append(self.env.now)
        solving = costs.solve_s / self.scenario.router_cores
        yield from self.stations["router"].work(assumed.call_s + solving + costs.publish_s, "publications")
        yield from storage.work((costs.weights_bytes + costs.root_bytes) / assumed.storage_bytes_s, "publications")
        marks.append(self.env.now)
        everybody = range(self.scenario.replicas)
        yield self.env.all_of([self.env.process(self._prepare(place, domains)) for place in everybody])
        marks.append(self.env.now)
        yield self.env.all_of([self.env.process(self._directory_of(place).call()) for place in everybody])
        marks.append(self.env.now)
        self.replicas.renew(domains, self.env.now)
        return dict(zip(("merge", "solve_and_commit", "prepare", "swap"), np.diff(marks).tolist(), strict=True))

    def _prepare(self, place: int, domains: set[int]) -> Events:
        costs, assumed = self.costs, self.assumed
        mine = sum(self.replicas.homes.holds(domain, place) for domain in domains)
        content = costs.weights_bytes + costs.root_bytes + mine * assumed.adapter_bytes
        yield from self.stations["registry storage"].work(content / assumed.storage_bytes_s, "publications")
        yield self.env.timeout(costs.manifest_s + content * costs.verify_byte_s)
        yield from self._directory_of(place).call()

    def _directory_of(self, place: int) -> EventLoop:
        return self._directories[place % (len(self._directories) - 1)]

    def _heartbeats(self, place: int) -> Events:
        # Replicas start at any time.
        yield self.env.timeout(self._random.random() * self.assumed.heartbeat_s)
        *leaves, root = self._directories
        while True:
            yield from self._directory_of(place).call()
            if 1 < len(leaves) > place:
                # In a tree one call of each leaf's goes on to the root.
                yield from root.call()
            yield self.env.timeout(self.assumed.heartbeat_s)

    # -- a request's way ----------------------------------------------------------------------------------------------

    def _clients(self) -> Events:
        while True:
            yield self.env.timeout(_TICK_S)
            seconds, missing, loads = self.replicas.take(self.scenario.requests_s, _TICK_S, self.env.now)
            self.asked += len(seconds)
            self._answer(seconds[~missing], 0.0)
            if loads:
                self.env.process(self._fetch(seconds[missing], loads))

    def _fetch(self, seconds: np.ndarray, loads: int) -> Events:
        """Read the adapters that requests of one tick have to wait for."""
        began, content = self.env.now, loads * self.assumed.adapter_bytes
        yield from self.stations["registry storage"].work(content / self.assumed.storage_bytes_s, "requests")
        yield self.env.timeout(self.assumed.adapter_bytes * self.costs.verify_byte_s)
        self._answer(seconds, self.env.now - began)

    def _answer(self, seconds: np.ndarray, waited: float) -> None:
        self.answered += len(seconds)
        if self.env.now >= self._window[0]:
            self.request_s.append(seconds + waited)

    # -- figures ------------------------------------------------------------------------------------------------------

    def _figures(self) -> dict[str, Any]:
        self._note_publishing()
        stations = {name: station.figures() for name, station in self.stations.items()}
        fullest = max((each.figures() for each in self._directories), key=lambda each: each["utilisation"])
        stations["directory"] = {**fullest, "servers": len(self._directories) - 1}
        start, end = self._window
        stations[LOOPS] = {
            # What is under way lasts until now.
            "utilisation": (self._loop_busy + self._loops.count * end) / (self.scenario.workers * (end - start)),
            "servers": self.scenario.workers,
            "waiting_at_the_end": len(self._loops.queue),
        }
        stations["replicas"] = self.replicas.figures(self.scenario.seconds)
        stations["publisher"]["waiting_at_the_end"] = len(self._accepted.items)
        lasted = [done - last for _, last, done in self.published if last is not None]
        requests = np.concatenate(self.request_s) if self.request_s else np.zeros(0)
        means = {
            key: float(np.mean([each[key] for each in self.publications])) for key in (self.publications or [{}])[0]
        }
        return {
            "load": {"records_s": self.scenario.records_s, "requests_s": self.scenario.requests_s},
            "stations": stations,
            "rows": {"in": self.rows_in, "folded": self.rows_folded, "waiting": self.rows_in - self.rows_folded},
            "requests": {"asked": self.asked, "answered": self.answered, **_quantiles(requests)},
            "publications": {"count": len(self.publications), "domains": len(self.published), "mean": means},
            "last_record_to_routed": {"domains": len(lasted), **_quantiles(np.array(lasted))},
        }


def _quantiles(values: np.ndarray) -> dict[str, float | None]:
    if not len(values):
        return {"p50": None, "p99": None}
    return {"p50": float(np.quantile(values, 0.5)), "p99": float(np.quantile(values, 0.99))}
