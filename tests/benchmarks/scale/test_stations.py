"""Stations against queueing theory's formulas, and event loops against counting."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import simpy

from benchmarks.scale.stations import EventLoop, Events, Station

MEAN_S = 1.0
RUN_S = 60_000.0


def mean_wait(load: float, service: Callable[[np.random.Generator], float], servers: int = 1) -> tuple[float, float]:
    """Mean wait and utilisation where work comes by a Poisson process at `load` of what all servers can do."""
    env, random = simpy.Environment(), np.random.default_rng(7)
    run_s = RUN_S / servers
    station = Station(env, servers, (0.02 * run_s, run_s))

    def arrivals() -> Events:
        while True:
            yield env.timeout(random.exponential(MEAN_S / (load * servers)))
            env.process(station.work(service(random)))

    env.process(arrivals())
    env.run(until=run_s)
    return station.figures()["mean_wait"], station.utilisation


@pytest.mark.parametrize("load", [0.3, 0.7])
def test_one_server_of_exponential_times_waits_as_mm1_does(load: float) -> None:
    wait, busy = mean_wait(load, lambda random: random.exponential(MEAN_S))
    assert busy == pytest.approx(load, rel=0.03)
    assert wait == pytest.approx(load / (1 - load) * MEAN_S, rel=0.08)


@pytest.mark.parametrize("load", [0.3, 0.7])
def test_one_server_of_equal_times_waits_as_md1_does(load: float) -> None:
    wait, busy = mean_wait(load, lambda _: MEAN_S)
    assert busy == pytest.approx(load, rel=0.03)
    assert wait == pytest.approx(load / (2 * (1 - load)) * MEAN_S, rel=0.08)


def test_several_servers_wait_as_erlangs_formula_says() -> None:
    servers, load = 4, 0.8
    offered = servers * load
    terms = np.cumprod([1.0, *(offered / k for k in range(1, servers + 1))])
    queued = terms[-1] / (1 - load)
    chance = queued / (terms[:-1].sum() + queued)
    wait, busy = mean_wait(load, lambda random: random.exponential(MEAN_S), servers)
    assert busy == pytest.approx(load, rel=0.03)
    assert wait == pytest.approx(chance * MEAN_S / (servers * (1 - load)), rel=0.08)


def test_a_station_that_gets_too_much_is_busy_all_the_time_and_counts_who_waits() -> None:
    env = simpy.Environment()
    station = Station(env, 2, (0.0, 10.0))
    for _ in range(30):
        env.process(station.work(1.0))
    env.run(until=10.0)
    assert station.utilisation == 1.0
    # Twenty are done or being done; those that begin at this very moment wait no more.
    assert station.waiting == 30 - 20 - 2


def test_calls_that_come_while_a_loop_is_busy_share_the_next_wake() -> None:
    env = simpy.Environment()
    loop = EventLoop(env, 0.1, 1.0, (0.0, 100.0))
    done: list[float] = []

    def caller(at: float) -> Events:
        yield env.timeout(at)
        yield from loop.call()
        done.append(env.now)

    for at in (0.0, 0.5, 0.6, 50.0):
        env.process(caller(at))
    env.run(until=100.0)
    assert done == pytest.approx([1.1, 2.3, 2.3, 51.1])
    found = loop.figures()
    assert found["busy"] == pytest.approx((1.1 + 1.2 + 1.1) / 100.0)
    assert found["utilisation"] == pytest.approx(4 * 0.1 / 100.0)
    assert found["mean_wait"] == pytest.approx((1.1 + 1.8 + 1.7 + 1.1) / 4)
