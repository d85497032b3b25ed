"""Settings chosen for each method by held-out rows: the values of its sweep with the highest AA, never by test rows.

One order and one seed; of equals the one with the lower mean loss after the last task. Knows no method.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from rich.console import Console

from benchmarks.continual.plan import SWEEP, ContinualPlan, label_of, variants
from benchmarks.continual.running import run_all
from benchmarks.continual.summary import summarise

FIGURES = ("aa", "diagonal", "bwt", "loss")


def choose(
    plan: ContinualPlan, methods: Mapping[str, Mapping[str, Any]], console: Console, workers: int = 0
) -> dict[str, dict[str, Any]]:
    """By method with a sweep, the `values` chosen and all `trials`; `methods` are those of the settings, by name."""
    swept = {name: variants(name, settings) for name, settings in methods.items() if settings.get(SWEEP)}
    if not swept:
        return {}
    trying = replace(
        plan,
        work=plan.work / "choosing",
        orders=plan.orders[:1],
        seeds=plan.seeds[:1],
        methods={label: each for found in swept.values() for label, each in found.items()},
        routers={},
        held_out=True,
    )
    run_all(trying, console, workers)
    figures = summarise(trying)["methods"]
    return {name: _best(methods[name][SWEEP], found, figures) for name, found in swept.items()}


def with_chosen(
    methods: Mapping[str, Mapping[str, Any]], chosen: Mapping[str, Mapping[str, Any]]
) -> dict[str, dict[str, Any]]:
    """The methods' settings by label, at the values chosen."""
    found = {}
    for name, settings in methods.items():
        values = chosen.get(name, {}).get("values", {})
        plain = {key: value for key, value in settings.items() if key != SWEEP}
        swept = {key: values.get(key, plain.get(key)) for key in settings.get(SWEEP, {})}
        found[label_of(name, swept)] = {**plain, **values}
    return found


def _best(
    sweep: Mapping[str, Any], found: Mapping[str, Mapping[str, Any]], figures: Mapping[str, Any]
) -> dict[str, Any]:
    trials = [{"label": label, **{key: figures[label]["figures"][key]["mean"] for key in FIGURES}} for label in found]
    best = max(trials, key=lambda trial: (float(trial["aa"]), -float(trial["loss"])))
    return {"values": {key: found[str(best["label"])][key] for key in sweep}, "trials": trials}
