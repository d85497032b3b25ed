"""The simulated system: nothing is lost, the same seed gives the same run, more load gives more work."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from benchmarks.scale.model import Design, Scenario, Simulation
from benchmarks.scale.replicas import Homes
from benchmarks.scale.scenarios import CHANGES
from tests.benchmarks.scale.small import ASSUMED, CONSTANTS, SCENARIO

ALL = Design(shards=True, window_s=5.0, homes=2, leaves=3, ledgers=2)
# Runs are short, and so is their window.
CHANGED = {name: {key: 5.0 if key == "window_s" else each for key, each in c.items()} for name, c in CHANGES.items()}
DESIGNS = {"as built": Design(), "all": ALL, **{name: Design(**change) for name, change in CHANGED.items()}}
each_design = pytest.mark.parametrize("design", DESIGNS.values(), ids=DESIGNS.keys())


def run(scenario: Scenario = SCENARIO, design: Design | None = None, **assumed: Any) -> dict[str, Any]:
    return Simulation(scenario, design or Design(), CONSTANTS, replace(ASSUMED, **assumed)).run()


@each_design
def test_every_row_is_folded_or_waits_and_every_request_is_answered(design: Design) -> None:
    simulation = Simulation(SCENARIO, design, CONSTANTS, ASSUMED)
    found = simulation.run()
    rows = found["rows"]
    assert rows["in"] == rows["folded"] + rows["waiting"]
    assert 0 <= rows["waiting"] < 0.1 * rows["in"]
    assert rows["in"] == pytest.approx(SCENARIO.records_s * SCENARIO.seconds, rel=0.15)
    requests = found["requests"]
    assert requests["asked"] == requests["answered"] > 0


@each_design
def test_what_closes_is_published(design: Design) -> None:
    scenario = replace(SCENARIO, closing_rows=10_000)
    found = run(scenario, design)
    folded_domains = found["rows"]["folded"] / scenario.closing_rows
    assert found["publications"]["domains"] == pytest.approx(0.75 * folded_domains, abs=4)
    lasted = found["last_record_to_routed"]
    assert lasted["domains"] > 0
    assert ASSUMED.train_s < lasted["p50"] < ASSUMED.train_s + design.window_s + 5.0


def test_one_seed_is_one_run() -> None:
    first, again, other = run(), run(), run(replace(SCENARIO, seed=1))
    assert json.dumps(first) == json.dumps(again)
    assert first["rows"] != other["rows"]


def test_more_load_keeps_every_station_busier_until_one_is_full() -> None:
    loads = (0.25, 0.5, 1.0, 2.0)
    runs = [
        run(replace(SCENARIO, records_s=load * SCENARIO.records_s, requests_s=load * SCENARIO.requests_s))
        for load in loads
    ]
    for name in ("router", "router link", "ingest GPUs", "learners", "replicas"):
        busy = [each["stations"][name]["utilisation"] for each in runs]
        assert busy == sorted(busy) and busy[-1] > 2 * busy[0], name


def test_the_router_takes_what_its_costs_let_it_take() -> None:
    found = run(replace(SCENARIO, records_s=40_000.0, requests_s=0.0, ingest_gpus=100, workers=100, closing_rows=10**9))
    router = CONSTANTS["router"]["64"]
    row_s = router["observe"] + router["score"]["10"] + 3e-6 + 2 * ASSUMED.call_s / CONSTANTS["block_rows"]
    assert found["stations"]["router"]["utilisation"] > 0.99
    assert found["rows"]["folded"] / SCENARIO.seconds == pytest.approx(1 / row_s, rel=0.05)


def test_sharded_sums_take_the_rows_from_router_and_link() -> None:
    built, sharded = run(), run(design=Design(shards=True))
    assert sharded["stations"]["router link"]["utilisation"] == 0.0
    assert sharded["stations"]["router"]["utilisation"] < built["stations"]["router"]["utilisation"] / 2
    assert sharded["stations"]["ingest workers"]["utilisation"] > built["stations"]["ingest workers"]["utilisation"]
    assert sharded["publications"]["mean"]["merge"] > 0.0 == built["publications"]["mean"]["merge"]


def test_a_window_makes_few_publications_of_many_domains() -> None:
    built, windows = run(), run(design=Design(window_s=15.0))
    assert windows["publications"]["count"] < built["publications"]["count"] / 2
    assert windows["publications"]["mean"]["domains"] > 2


def test_homes_read_less_of_the_storage() -> None:
    # Two of ten domains fit into a replica's memory.
    few = {"adapter_slots": 2}
    built, homes = run(**few), run(design=Design(homes=1), **few)
    assert homes["stations"]["registry storage"]["utilisation"] < built["stations"]["registry storage"]["utilisation"]
    reads = [each["stations"]["replicas"]["adapters_read_for_requests"] for each in (built, homes)]
    assert reads[1] < reads[0] / 2


def test_homes_go_around_the_circle_and_hot_domains_have_more() -> None:
    homes = Homes.of(50, 20, 2, 1.0, np.random.default_rng(0))
    held = np.array([[homes.holds(domain, place) for place in range(20)] for domain in range(50)])
    assert (held.sum(axis=1) == homes.count_K).all()
    assert homes.count_K[0] > homes.count_K[-1] == 2
    assert held.sum(axis=0).max() - held.sum(axis=0).min() <= 1
    asked_N = np.repeat(np.arange(50), 40)
    assert held[asked_N, homes.choose(asked_N, np.random.default_rng(1))].all()
