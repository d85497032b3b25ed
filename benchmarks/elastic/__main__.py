"""More learners and more replicas do as much more work: 1, 2 and 4 of each, simulated nodes, fixed service times.

Each node has room for one learner or one replica. All is real but the time that a training and an answer take: Ray,
Serve, HAProxy, the stream, ingest, router, registry, gate, publication. Efficiency is the rate of n over n times
the median rate of one. Run it with `anabranch bench elastic`, on a machine that does nothing else.
"""

from __future__ import annotations

import argparse
import json
import signal
import statistics
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.elastic import report
from benchmarks.elastic.measures import learners, ranged, replicas
from benchmarks.elastic.nodes import nodes
from benchmarks.hardware import describe

RESULT = Path(__file__).parents[1] / "results" / "elastic" / "elastic.json"
COUNTS = (1, 2, 4)
_PARTS = ("learners", "replicas", "range")


def main() -> None:
    """Run the parts asked for, write the result and renew the tables of the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--domains", type=int, default=16, help="of a backlog; a multiple of four")
    parser.add_argument("--training-seconds", type=float, default=15.0)
    parser.add_argument("--answer-seconds", type=float, default=0.5)
    parser.add_argument("--load-seconds", type=float, default=30.0, help="for which answers are counted")
    parser.add_argument("--parts", nargs="+", choices=_PARTS, default=list(_PARTS), help="others stay as they were")
    parser.add_argument("--draw", action="store_true", help="only the tables, from the result that is there")
    parser.add_argument("--out", type=Path, default=RESULT)
    options = parser.parse_args()
    # So that nodes go down with it, however it is ended.
    signal.signal(signal.SIGTERM, lambda number, _: sys.exit(128 + number))
    if not options.draw:
        found = measure(options)
        result = json.loads(options.out.read_text()) if options.out.is_file() else {}
        result |= {"claim": __doc__.splitlines()[0] if __doc__ else "", "nodes": max(COUNTS)} | found
        options.out.parent.mkdir(parents=True, exist_ok=True)
        options.out.write_text(json.dumps(result, indent=1) + "\n")
    result = json.loads(options.out.read_text())
    if options.out == RESULT:
        report.PAGE.write_text(report.fill(report.PAGE.read_text(), result))
    for name, table in report.tables(result).items():
        print(f"\n{name}\n\n{table}", end="")


def measure(options: argparse.Namespace) -> dict[str, Any]:
    """The parts asked for; runs of 1, 2 and 4 in turns, the other way round in every second round."""
    found: dict[str, Any] = {}
    with tempfile.TemporaryDirectory(prefix="elastic-") as folder, nodes(max(COUNTS)) as address:
        homes = (Path(folder) / f"home-{number}" for number in range(1000))
        if "learners" in options.parts:
            runs = [
                _said(learners(address, next(homes), count, options.domains, options.training_seconds))
                for count in _turns(options.rounds)
            ]
            found["learners"] = {"hardware": describe(), "runs": runs, "efficiency": efficiency(runs, "learners")}
        if "range" in options.parts:
            run = ranged(address, next(homes), max(COUNTS), options.domains, options.training_seconds, 10.0)
            found["range"] = {"hardware": describe(), "runs": [_said(run)]}
        if "replicas" in options.parts:
            runs = [
                _said(replicas(address, next(homes), count, options.load_seconds, options.answer_seconds))
                for count in _turns(options.rounds)
            ]
            found["replicas"] = {"hardware": describe(), "runs": runs, "efficiency": efficiency(runs, "replicas")}
    return found


def _turns(rounds: int) -> list[int]:
    return [count for number in range(rounds) for count in (COUNTS if number % 2 == 0 else COUNTS[::-1])]


def efficiency(runs: Sequence[dict[str, Any]], what: str) -> dict[str, dict[str, Any]]:
    """By count, the rate over `count` times the median rate of one: that of each run, and their median."""
    one = statistics.median(run["rate"] for run in runs if run[what] == 1)
    found = {}
    for count in COUNTS:
        each = [run["rate"] / (count * one) for run in runs if run[what] == count]
        found[str(count)] = {"median": round(statistics.median(each), 3), "each": [round(rate, 3) for rate in each]}
    return found


def _said(run: dict[str, Any]) -> dict[str, Any]:
    print(json.dumps(run), file=sys.stderr, flush=True)
    return run


if __name__ == "__main__":
    main()
