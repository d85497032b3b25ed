"""The search for what saturates, the constants it rests on, and the page that tells of it."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from benchmarks.scale import measure, report, scenarios
from benchmarks.scale.__main__ import RESULT
from benchmarks.scale.costs import Assumptions, MeasuredCosts, linear, load
from benchmarks.scale.model import Design, Simulation
from benchmarks.scale.scenarios import SATURATED, at_load, climb, cluster, fullest, saturation
from tests.benchmarks.scale.small import CONSTANTS, SCENARIO


@pytest.fixture
def _short(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("_SHORTEST_S", "_LONGEST_S"):
        monkeypatch.setattr(scenarios, name, 60.0)


def test_what_is_between_and_beyond_measured_points_lies_on_lines() -> None:
    table = {"10": 1.0, "100": 10.0, "1000": 10.0}
    assert [linear(table, at) for at in (10, 55, 100, 500, 5000)] == pytest.approx([1.0, 5.5, 10.0, 10.0, 10.0])
    assert linear({"10": 1.0, "20": 3.0}, 40) == pytest.approx(7.0)
    assert linear({"10": 1.0, "20": 3.0}, 1) == 0.0


def test_a_width_that_was_not_measured_is_refused() -> None:
    with pytest.raises(SystemExit, match="d = 65"):
        MeasuredCosts(CONSTANTS, 65, 10)


def test_what_is_derived_of_the_base_has_its_size() -> None:
    assumed = Assumptions()
    # 90,112 numbers for each rank and layer, 24 layers of them, four bytes each.
    assert assumed.adapter_bytes == 4 * 16 * 90_112 * 24
    assert 30 < assumed.train_s < 60


@pytest.mark.usefixtures("_short")
def test_it_finds_the_load_at_which_the_slowest_station_is_full() -> None:
    # The ingest GPUs bear 4 / feature_s rows a second; all else has more room.
    constants = json.loads(json.dumps(CONSTANTS))
    constants["router"]["64"]["observe"] = 1e-6
    scenario = replace(SCENARIO, records_s=4000.0, requests_s=0.0, closing_rows=10**9)
    found = saturation(scenario, Design(), constants)
    bears = scenario.ingest_gpus / Assumptions().feature_s
    assert found.station == "ingest GPUs"
    assert found.load * scenario.records_s == pytest.approx(SATURATED * bears, rel=0.06)
    for load_, run in found.runs.items():
        assert (fullest(run)[1] >= SATURATED) == (load_ >= found.load)


@pytest.mark.usefixtures("_short")
def test_changes_answer_to_what_saturates() -> None:
    constants = json.loads(json.dumps(CONSTANTS))
    constants["router"]["64"]["observe"] = 1e-3
    scenario = replace(
        SCENARIO, records_s=8_000.0, requests_s=0.0, ingest_gpus=20, workers=40, learners=40, closing_rows=20_000
    )
    steps = climb(scenario, constants)
    assert steps[0][0] is None and steps[0][1].station == "router"
    assert steps[1][0] == "sharded sums"
    loads = [found.load for _, found in steps]
    assert loads == sorted(loads) and loads[-1] > 5 * loads[0]


def test_a_publisher_that_waits_is_not_blamed_for_who_keeps_it_waiting() -> None:
    run = Simulation(SCENARIO, Design(), CONSTANTS).run()
    for name in run["stations"]:
        run["stations"][name]["utilisation"] = 0.1
    run["stations"]["publisher"]["utilisation"] = 1.0
    assert fullest(run) == ("publisher", 1.0)
    run["stations"]["registry storage"]["utilisation"] = 0.96
    assert fullest(run) == ("registry storage", 0.96)


@pytest.mark.parametrize("gpus", [10, 100, 1000])
def test_a_cluster_is_its_gpus(gpus: int) -> None:
    scenario = cluster(gpus)
    assert scenario.replicas + scenario.learners + scenario.ingest_gpus == gpus
    assert (scenario.records_s, scenario.requests_s) == (100 * gpus, 10 * gpus)
    assert at_load(scenario, 0.5).records_s == 50 * gpus


def test_the_products_own_code_is_timed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(measure, "_WAIT_S", 0.05)
    found = {
        **CONSTANTS,
        "record": measure.record_costs(tmp_path),
        "ledger": measure.ledger_costs(),
        "router": {"16": measure.router_costs(16, (2, 4))},
        "commit": measure.commit_costs(tmp_path, (2, 12)),
        "adapter": measure.adapter_costs(tmp_path),
        "directory": measure.directory_costs((2, 8), 10),
    }
    json.dumps(found)
    costs = MeasuredCosts(found, 16, 3)
    times = (costs.record_s, costs.observe_s, costs.solve_s, costs.decide_s, costs.publish_s, costs.verify_byte_s)
    assert min(times) > 0.0
    assert costs.root_bytes > 0 and costs.weights_bytes == 8 * 16 * 3


def test_the_page_shows_the_committed_result() -> None:
    page = report.PAGE.read_text(encoding="utf-8")
    assert report.fill(page, load(RESULT)) == page
    assert load(RESULT)["constants"] == load()


def test_a_page_without_a_section_is_refused() -> None:
    with pytest.raises(SystemExit, match="'constants'"):
        report.fill("nothing", load(RESULT))
