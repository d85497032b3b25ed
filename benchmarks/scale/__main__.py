"""A cluster of 1,000 GPUs, simulated with measured costs, saturates where this says, and bears its target when changed.

python -m benchmarks.scale            simulate with the committed constants: result, pictures, tables of the page
python -m benchmarks.scale --measure  measure the constants on this machine first
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from benchmarks.scale import report
from benchmarks.scale.checks import checks
from benchmarks.scale.costs import CONSTANTS, Assumptions, load
from benchmarks.scale.measure import measure
from benchmarks.scale.model import Design, Scenario, Simulation
from benchmarks.scale.scenarios import CHANGES, LEAST_LOAD, Saturation, changed, climb, cluster, saturation

RESULT = CONSTANTS.parent / "scale.json"
_NARROW = 1152
_REPLICAS = (300, 600, 1200, 2400)


def main() -> None:
    """Run what is asked for and write it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--gpus", type=int, nargs="+", default=[10, 100, 1000], help="clusters; the last is looked at closely"
    )
    parser.add_argument("--measure", action="store_true", help="measure the constants anew: minutes")
    parser.add_argument("--draw", action="store_true", help="only pictures and tables, from the result that is there")
    parser.add_argument("--constants", type=Path, default=CONSTANTS)
    parser.add_argument("--out", type=Path, default=RESULT)
    options = parser.parse_args()
    if options.measure:
        _write(options.constants, measure())
    if not options.draw:
        _write(options.out, simulate(options.gpus, load(options.constants)))
    result = load(options.out)
    if options.out == RESULT:
        report.PAGE.write_text(report.fill(report.PAGE.read_text(), result))
        report.draw(result)
    for name, table in report.tables(result).items():
        print(f"\n{name}\n\n{table}", end="")


def simulate(gpus: list[int], constants: dict[str, Any]) -> dict[str, Any]:
    """The whole result: every cluster's way to its target, and the last cluster without each change and at it."""
    scenarios = {}
    for count in gpus:
        steps = climb(cluster(count), constants)
        scenarios[cluster(count).name] = [{"change": change, **_told(found)} for change, found in steps]
        print(f"{count} GPUs: {[(change, found.station, found.load) for change, found in steps]}", flush=True)
    scenario, whole = cluster(gpus[-1]), steps[-1][1].design
    return {
        "claim": __doc__.splitlines()[0] if __doc__ else "",
        "constants": constants,
        "assumptions": {**asdict(Assumptions()), **_derived(Assumptions())},
        "checks": checks(constants),
        "scenarios": scenarios,
        "without": _without(scenario, [change for change, _ in steps if change], constants),
        "directories": [_directories(scenario, count, constants) for count in _REPLICAS],
        "target": {
            "as_built": Simulation(scenario, Design(), constants).run(),
            "changed": Simulation(scenario, whole, constants).run(),
        },
    }


def _without(scenario: Scenario, taken: list[str], constants: Mapping[str, Any]) -> list[dict[str, Any]]:
    """All changes but one, each left out in turn; and narrow features as built and in the place of sharded sums."""
    found = []
    for left_out in taken:
        design = Design()
        for change in taken:
            design = design if change == left_out else changed(design, change)
        found.append({"name": f"all but {left_out}", **_told(saturation(scenario, design, constants))})
    narrow, rest = replace(scenario, dim=_NARROW), Design()
    for change in taken:
        rest = rest if CHANGES[change].get("shards") else changed(rest, change)
    found.append({"name": f"as built, d = {_NARROW}", **_told(saturation(narrow, Design(), constants))})
    found.append({"name": f"all but sharded sums, d = {_NARROW}", **_told(saturation(narrow, rest, constants))})
    return found


def _directories(scenario: Scenario, replicas: int, constants: Mapping[str, Any]) -> dict[str, Any]:
    """How busy so many idle replicas keep one directory, and the fullest of a tree."""
    idle = replace(scenario, replicas=replicas, records_s=0.0, requests_s=0.0, seconds=40.0)
    tree = changed(Design(), "tree of directories")
    designs = {"one": Design(), "tree": tree}
    found = {
        name: Simulation(idle, design, constants).run()["stations"]["directory"] for name, design in designs.items()
    }
    return {"replicas": replicas, "leaves": tree.leaves, **found}


def _told(found: Saturation) -> dict[str, Any]:
    return {"design": asdict(found.design), "least_load": LEAST_LOAD, **found.summary()}


def _derived(assumed: Assumptions) -> dict[str, float]:
    return {"adapter_bytes": assumed.adapter_bytes, "feature_s": assumed.feature_s, "train_s": assumed.train_s}


def _write(path: Path, content: Mapping[str, Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content, indent=1) + "\n")


if __name__ == "__main__":
    main()
