"""Tables of a run's result, in Markdown. Knows the result alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

_BY_NAME = {
    "aa": "AA",
    "diagonal": "diagonal",
    "bwt": "BWT",
    "fwt": "FWT",
    "forgetting": "forgetting",
    "changed": "answers changed",
    "perplexity_change": "perplexity",
}
_COSTS = {
    "weights_trained": ("weights trained", 1, "{:,.0f}"),
    "stored_bytes": ("bytes stored", 1, "{:,.0f}"),
    "seconds": ("seconds", 1, "{:.1f}"),
    "peak_bytes": ("peak MiB", 2**20, "{:,.0f}"),
}


def document(result: Mapping[str, Any]) -> str:
    """All tables with what they show."""
    orders = "; ".join(", ".join(order) for order in result["orders"])
    rows = result["rows"]
    parts = [
        f"# Continual learning: {result.get('base', '')}",
        f"{len(result['orders'])} order(s) ({orders}), seeds {', '.join(map(str, result['seeds']))}; rows a task: "
        f"{rows['train'] or 'all'} of the training file, {rows['held_out_share']:.0%} of them held out, "
        f"{rows['test'] or 'all'} to test by. Measured on {result['judged_by']}. Mean ± standard deviation over orders "
        "and seeds.",
        "AA: mean score after the last task; diagonal: right after each was learned; BWT: divided by one task less; "
        "answers changed: share of an earlier task's answers that a new task changes, right or wrong; perplexity: its "
        "change on general text after the last task. A method that learns little forgets little: AA, diagonal and BWT "
        "belong together.",
        "## By name",
        _by_name(result["methods"]),
        "## Costs",
        _costs(result["methods"]),
    ]
    if routed := _routed(result["methods"], result["routers"]):
        parts += [
            "## Routed: AA (BWT)",
            "In square brackets AA by name times the router's accuracy: what AA would be if a row routed wrong scored "
            "nothing, and rows were routed wrong whatever they score.",
            routed,
        ]
    if served := _served(result["methods"]):
        parts += [
            "## Served by vLLM after the last task, asked over HTTP",
            "As its own: share of the answers by name that are letter by letter what the method's own model gives "
            "greedily; routed: `auto`, by the service's router. A method of several deployments was served one after "
            "another, and can't be routed to.",
            served,
        ]
    if routers := _routers(result["routers"]):
        parts += ["## Routers", routers]
    if chosen := result.get("chosen"):
        parts += ["## Settings, chosen by AA on held-out rows of the first order and seed", _chosen(chosen)]
    if result["unfinished"]:
        parts += ["## Unfinished", "\n".join(f"- {each}" for each in result["unfinished"])]
    return "\n\n".join(parts) + "\n"


def _by_name(methods: Mapping[str, Any]) -> str:
    rows = []
    for label, method in methods.items():
        figures = method["figures"]
        rows.append([label, *(_spread(figures[key], percent=key == "perplexity_change") for key in _BY_NAME)])
    return markdown(["method", *_BY_NAME.values()], rows)


def _costs(methods: Mapping[str, Any]) -> str:
    rows = []
    for label, method in methods.items():
        found = [form.format(method["figures"][key]["mean"] / unit) for key, (_, unit, form) in _COSTS.items()]
        rows.append([label, *found, str(method["failures"] or "")])
    return markdown(["method", *(name for name, _, _ in _COSTS.values()), "failed trainings"], rows)


def _routed(methods: Mapping[str, Any], routers: Mapping[str, Any]) -> str:
    names = list(dict.fromkeys(name for method in methods.values() for name in method["routed"]))
    rows = []
    for label, method in methods.items():
        if method["routed"]:
            by_name = method["figures"]["aa"]["mean"]
            found = [_of_router(method["routed"].get(name), by_name, routers[name]) for name in names]
            rows.append([label, *found])
    return markdown(["method", *names], rows) if rows else ""


def _of_router(figures: Mapping[str, Any] | None, by_name: float, router: Mapping[str, Any]) -> str:
    if figures is None:
        return ""
    as_if = by_name * router["figures"]["accuracy"]["mean"]
    return f"{_spread(figures['aa'])} ({_spread(figures['bwt'])}) [{as_if:.3f}]"


def _served(methods: Mapping[str, Any]) -> str:
    rows = []
    for label, method in methods.items():
        if figures := method.get("served"):
            scores = [_spread(figures[key]) if key in figures else "" for key in ("by_name", "routed", "equal")]
            counts = [
                f"{figures[key]['mean']:g}" for key in ("requests", "failed", "deployments", "adapters", "base_changes")
            ]
            rows.append([label, *scores, *counts])
    heads = ["by name", "routed", "as its own", "requests", "failed", "deployments", "adapters", "changes of the base"]
    return markdown(["method", *heads], rows) if rows else ""


def _routers(routers: Mapping[str, Any]) -> str:
    rows = []
    for label, router in routers.items():
        if router["runs"]:
            figures = router["figures"]
            shares = [_spread(figures[key]) for key in ("accuracy", "lowest", "bwt")]
            rows.append(
                [label, *shares, f"{figures['stored_bytes']['mean']:,.0f}", f"{figures['cpu_seconds']['mean']:.1f}"]
            )
    heads = ["router", "accuracy after the last task", "least after any", "BWT", "bytes stored", "CPU seconds"]
    return markdown(heads, rows) if rows else ""


def _chosen(chosen: Mapping[str, Any]) -> str:
    rows = [
        [
            name,
            ", ".join(f"{key}={value}" for key, value in each["values"].items()),
            "; ".join(f"{trial['label'].removeprefix(name).strip()}: {trial['aa']:.3f}" for trial in each["trials"]),
        ]
        for name, each in chosen.items()
    ]
    return markdown(["method", "chosen", "AA by held-out rows"], rows)


def markdown(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table; the first column is text, the others stand to the right.

    >>> print(markdown(["a", "b"], [["x", "1"]]))
    | a | b |
    |---|---:|
    | x | 1 |
    """
    lines = [heads, ["---", *("---:" for _ in heads[1:])], *rows]
    return "\n".join(f"|{'|'.join(line)}|" if at == 1 else f"| {' | '.join(line)} |" for at, line in enumerate(lines))


def _spread(figure: Mapping[str, float], *, percent: bool = False) -> str:
    """Mean, and the deviation where there are several runs."""
    form = "{:+.1%}" if percent else "{:.3f}"
    mean = form.format(figure["mean"]).replace("-0.000", "0.000")
    if not figure["sd"]:
        return mean
    deviation = f"{figure['sd']:.1%}" if percent else f"{figure['sd']:.3f}"
    return f"{mean} ± {deviation}"
