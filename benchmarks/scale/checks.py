"""The model of one machine of two cores against figures that were measured on it and are committed beside ours.

Where both hold one machine's costs, they differ by what the model leaves out; a check says by how much.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks.scale.costs import Assumptions, MeasuredCosts
from benchmarks.scale.model import Design, Scenario, Simulation

RESULTS = Path(__file__).parents[1] / "results"
TWO_CORES = Scenario(
    name="two cores",
    gpus=0,
    domains=10,
    records_s=0.0,
    requests_s=0.0,
    replicas=1,
    learners=1,
    ingest_gpus=0,
    workers=1,
    router_cores=1,
    seconds=60.0,
)
_DEMO = Assumptions(layers=6, hidden=160, keys=160, inner=432, frozen_layers=2, rank=16, parameters=2.6e5)
"""The demo's base and adapters (`examples/base`); no GPU is asked for anything."""


def checks(constants: Mapping[str, Any], results: Path = RESULTS) -> list[dict[str, Any]]:
    """Each with `what`, `unit`, `measured`, `simulated` and the file that the measured figure is from."""
    found = [_rows(constants, _read(results, "router.json"))]
    ledger = _read(results, "ledger.json")
    found.extend(_publication(constants, ledger, each) for each in ledger["publication"])
    found.append(_demo(constants, _read(results, "demo.json")))
    found.append(_directory(constants))
    return found


def _rows(constants: Mapping[str, Any], router: Mapping[str, Any]) -> dict[str, Any]:
    """Rows that a router on one core takes in a second when more come than it can take."""
    scenario = replace(TWO_CORES, dim=router["dim"], records_s=4000.0, closing_rows=10**9)
    run = Simulation(scenario, Design(), constants).run()
    return {
        "what": f"rows into the router, d = {router['dim']}, one core, its sums alone / the whole way",
        "unit": "rows/s",
        "measured": router["rows"] / router["cpu_seconds"]["accumulate_observe_large"],
        "simulated": run["rows"]["folded"] / scenario.seconds,
        "from": "router.json",
    }


def _publication(constants: Mapping[str, Any], ledger: Mapping[str, Any], step: Mapping[str, Any]) -> dict[str, Any]:
    """Seconds from the rows of one more domain to the commit of its publication, without any replica."""
    scenario = replace(TWO_CORES, dim=ledger["dim"], domains=step["domains"], router_cores=ledger["hardware"]["cores"])
    costs, rows = MeasuredCosts(constants, scenario.dim, scenario.domains), ledger["rows_a_domain"]
    mean = _published(scenario, constants, Assumptions())
    # Rows of a domain of so few are summed in the total alone.
    observing = rows * (costs.observe_s / 2 / scenario.router_cores + costs.score_s / scenario.router_cores)
    return {
        "what": f"publication beside {scenario.domains} domains, d = {scenario.dim}, two cores, without replicas",
        "unit": "s",
        "measured": step["seconds"]["in_all"],
        "simulated": observing + costs.seal_s + mean["solve_and_commit"],
        "from": "ledger.json",
    }


def _demo(constants: Mapping[str, Any], demo: Mapping[str, Any]) -> dict[str, Any]:
    scenario = replace(TWO_CORES, dim=2048, domains=len(demo["domains"]))
    return {
        "what": "publication in the demo, d = 2048, one replica, median",
        "unit": "s",
        "measured": median(demo["publication_seconds"].values()),
        "simulated": _published(scenario, constants, _DEMO)["seconds"],
        "from": "demo.json",
    }


def _directory(constants: Mapping[str, Any]) -> dict[str, Any]:
    """A directory with nothing to tell: more replicas than its costs were measured at, who come in bunches."""
    measured = constants["directory"]
    scenario = replace(TWO_CORES, replicas=measured["largest"])
    run = Simulation(scenario, Design(), constants, Assumptions(call_s=0.0)).run()
    return {
        "what": f"share of a core that {measured['largest']} replicas' calls keep the directory busy",
        "unit": "",
        "measured": measured["busy_at_the_largest"],
        "simulated": run["stations"]["directory"]["busy"],
        "from": "scale/constants.json",
    }


def _published(scenario: Scenario, constants: Mapping[str, Any], assumed: Assumptions) -> dict[str, float]:
    """Means of publications that come one at a time."""
    rows = 5 * int(constants["block_rows"])
    simulation = Simulation(replace(scenario, records_s=rows / 5.0, closing_rows=rows), Design(), constants, assumed)
    found: dict[str, float] = simulation.run()["publications"]["mean"]
    return found


def _read(folder: Path, name: str) -> Any:
    return json.loads((folder / name).read_text())
