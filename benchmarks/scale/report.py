"""Tables and pictures of a result, and the page that shows them: everything is from the result file alone.

Sections of `docs/scale.md` between `<!-- NAME -->` and `<!-- /NAME -->` are tables of this module; `fill` renews them.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl
import matplotlib.pyplot as plt
from matplotlib.axes import Axes

PAGE = Path(__file__).parents[2] / "docs" / "scale.md"
PICTURES = PAGE.parent / "pictures"
_COLOURS = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00", "#777777", "#000000")
"""Of Okabe and Ito's palette, as in the other benchmarks' pictures."""
Result = Mapping[str, Any]


def tables(result: Result) -> dict[str, str]:
    """Markdown tables by the name of their section."""
    return {
        "constants": _constants(result),
        "checks": _checks(result),
        "first": _first(result),
        "changes": _changes(result),
        "without": _without(result),
        "directories": _directories(result),
        "target": _target(result),
    }


def fill(page: str, result: Result) -> str:
    """The page with every section's table renewed. Raises `SystemExit` for a page that lacks one."""
    for name, table in tables(result).items():
        pattern = re.compile(rf"(<!-- {name} -->\n).*?(<!-- /{name} -->)", re.DOTALL)
        page, found = pattern.subn(lambda match, table=table: f"{match[1]}{table}{match[2]}", page)  # type: ignore[misc]
        if found != 1:
            raise SystemExit(
                f"the page has {found} sections {name!r}: expected one, between <!-- {name} --> and its end"
            )
    return page


def _constants(result: Result) -> str:
    constants = result["constants"]
    router, dims = constants["router"], sorted(constants["router"], key=int)
    columns = sorted(constants["commit"], key=int)
    rows: list[Sequence[object]] = [
        (
            "a record: decoded, spooled, read back",
            "",
            _micro(sum(constants["record"][k] for k in ("decode", "spool", "read"))),
        ),
        (
            "a row in the ledger: asked for twice, counted",
            "",
            _micro(2 * constants["ledger"]["fates"] + constants["ledger"]["apply"]),
        ),
    ]
    for dim in dims:
        rows.append(("a row into the sums, total and domain", f"d = {dim}", _micro(router[dim]["observe"])))
    rows.append(("sums added to sums", f"d = {dims[-1]}", _seconds(router[dims[-1]]["merge"])))
    for name, what in (("solve", "a solve"), ("decide", "a prompt routed"), ("score", "a row's scores")):
        for count in columns:
            rows.append((what, f"d = {dims[-1]}, K = {count}", _seconds(router[dims[-1]][name][count])))
    for count in columns:
        commit = constants["commit"][count]
        rows.append(
            (
                "commits of a publication: seal, publish",
                f"K = {count}",
                f"{_seconds(commit['seal'])}, {_seconds(commit['publish'])}",
            )
        )
    directory = constants["directory"]
    rows.append(("a call to the directory", "each", _seconds(directory["call"])))
    rows.append(("the same", "and for each replica that it wakes", _seconds(directory["wake"])))
    rows.append(("adapter checked", "", f"{1e-9 / constants['adapter']['verify_a_byte']:.2f} GB/s"))
    return _table(("what", "at", "cost"), rows)


def _checks(result: Result) -> str:
    rows = [
        (
            each["what"],
            f"{_three(each['measured'])} {each['unit']}".strip(),
            f"{_three(each['simulated'])} {each['unit']}".strip(),
            f"{each['simulated'] / each['measured']:.2f}",
            f"`benchmarks/results/{each['from']}`",
        )
        for each in result["checks"]
    ]
    return _table(("what", "measured", "simulated", "ratio", "measured in"), rows)


def _first(result: Result) -> str:
    rows = [(name, *_rung(steps[0])) for name, steps in result["scenarios"].items()]
    return _table(("cluster", *_RUNG), rows)


def _changes(result: Result) -> str:
    rows = [
        (name if place == 0 else "", f"+ {step['change']}" if step["change"] else "as built", *_rung(step))
        for name, steps in result["scenarios"].items()
        for place, step in enumerate(steps)
    ]
    return _table(("cluster", "design", *_RUNG), rows)


def _without(result: Result) -> str:
    return _table(("design", *_RUNG), [(each["name"], *_rung(each)) for each in result["without"]])


def _directories(result: Result) -> str:
    rows = [
        (each["replicas"], *(cell for name in ("one", "tree") for cell in _directory(each[name])))
        for each in result["directories"]
    ]
    leaves = result["directories"][0]["leaves"]
    head = ("busy with calls", "with wakes too", "an answer, p99")
    return _table(("replicas", *(f"{name}: {each}" for name in ("one", f"of {leaves}") for each in head)), rows)


def _directory(figures: Mapping[str, Any]) -> tuple[str, ...]:
    return f"{figures['utilisation']:.2f}", f"{figures['busy']:.2f}", _seconds(figures["p99_wait"])


def _target(result: Result) -> str:
    """Station by station at the target, as built and with all changes."""
    sides = [result["target"][name]["stations"] for name in ("as_built", "changed")]
    names = list(dict.fromkeys(name for side in sides for name in side))
    rows = [(name, *(cell for side in sides for cell in _station(side.get(name)))) for name in names]
    head = ("busy", "waiting", "wait, p99")
    return _table(("station", *(f"{name}: {each}" for name in ("as built", "changed") for each in head)), rows)


def _station(figures: Mapping[str, Any] | None) -> tuple[str, str, str]:
    if figures is None:
        return "", "", ""
    # What nobody is served of has no wait yet.
    wait = _seconds(figures["p99_wait"]) if figures.get("pieces", 1) and "p99_wait" in figures else ""
    return f"{figures['utilisation']:.2f} of {figures['servers']}", str(figures["waiting_at_the_end"]), wait


_RUNG = (
    "saturates first",
    "at load",
    "records/s",
    "requests/s",
    "a publication",
    "last record to routed, p50, p99",
    "an answer, p50, p99",
)


def _rung(step: Mapping[str, Any]) -> tuple[str, ...]:
    run = step["at_saturation"]
    load, lasted, requests = run["load"], run["last_record_to_routed"], run["requests"]
    at = f"{step['load']:.3f}" if step["load"] > step["least_load"] else f"{step['load']:.3f} or less"
    publication = run["publications"]["mean"].get("seconds")
    return (
        _named(step),
        at,
        f"{load['records_s']:,.0f}",
        f"{load['requests_s']:,.0f}",
        "none ended" if publication is None else f"{publication:.1f} s",
        "none ended" if lasted["p50"] is None else f"{lasted['p50']:.0f} s, {lasted['p99']:.0f} s",
        f"{requests['p50']:.1f} s, {requests['p99']:.1f} s",
    )


def _named(step: Mapping[str, Any]) -> str:
    """What saturates, and with which kind of work most where there are several."""
    if step["station"] is None:
        return "nothing"
    kinds = step["at_saturation"]["stations"][step["station"]].get("by_kind", {})
    most = max(kinds, key=kinds.__getitem__, default="")
    return f"{step['station']}: {most} {kinds[most]:.2f}" if len(kinds) > 1 else str(step["station"])


def _table(head: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "".join(f"| {' | '.join(map(str, line))} |\n" for line in lines)


def _micro(seconds: float) -> str:
    return f"{1e6 * seconds:.1f} µs"


def _seconds(seconds: float) -> str:
    if seconds < 1e-3:
        return _micro(seconds)
    return f"{1e3 * seconds:.1f} ms" if seconds < 1 else f"{_three(seconds)} s"


def _three(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


# -- pictures ---------------------------------------------------------------------------------------------------------


def draw(result: Result, folder: Path = PICTURES) -> list[Path]:
    """Writes the pictures and returns where they are."""
    folder.mkdir(parents=True, exist_ok=True)
    mpl.use("Agg")
    with plt.rc_context({"font.size": 9, "axes.spines.top": False, "axes.spines.right": False}):
        return [_loads(result, folder / "scale_loads.png"), _ladder(result, folder / "scale_changes.png")]


def _loads(result: Result, path: Path) -> Path:
    """Utilisation over load of each station, one panel a cluster, as built above and with all changes below."""
    scenarios = result["scenarios"]
    figure, axes = plt.subplots(2, len(scenarios), figsize=(11, 6), layout="constrained", sharey=True, squeeze=False)
    stations = list(
        dict.fromkeys(n for steps in scenarios.values() for s in steps for n in s["curve"][0]["utilisation"])
    )
    for column, (name, steps) in enumerate(scenarios.items()):
        for row, (step, what) in enumerate(((steps[0], "as built"), (steps[-1], "with all changes"))):
            _curves(axes[row, column], step, stations)
            axes[row, column].set_title(f"{name}, {what}", loc="left", fontsize=9)
        axes[1, column].set_xlabel("load (1: 100 records/s and 10 requests/s a GPU)")
    for row in axes:
        row[0].set_ylabel("busy")
    handles = {label: h for each in axes.flat for h, label in zip(*each.get_legend_handles_labels(), strict=True)}
    figure.legend(handles.values(), handles.keys(), loc="outside lower center", ncols=5, frameon=False, fontsize=8)
    figure.savefig(path, dpi=110)
    plt.close(figure)
    return path


def _curves(axes: Axes, step: Mapping[str, Any], stations: Sequence[str]) -> None:
    loads = [point["load"] for point in step["curve"]]
    for place, name in enumerate(stations):
        if name not in step["curve"][0]["utilisation"]:
            continue
        busy = [point["utilisation"][name] for point in step["curve"]]
        colour, style = _COLOURS[place % len(_COLOURS)], "-" if place < len(_COLOURS) else "--"
        axes.plot(loads, busy, style, color=colour, marker="o", markersize=2.5, linewidth=1.3, label=name)
    axes.axvline(1.0, color="#bbbbbb", linewidth=0.8, zorder=0)
    axes.set_xscale("log", base=2)
    axes.set_ylim(0.0, 1.05)
    axes.grid(alpha=0.3)


def _ladder(result: Result, path: Path) -> Path:
    """The load at which each design saturates, and what does."""
    scenarios = result["scenarios"]
    heights = [len(steps) for steps in scenarios.values()]
    figure, axes = plt.subplots(
        len(scenarios),
        1,
        figsize=(8, 1.6 + 0.36 * sum(heights)),
        layout="constrained",
        sharex=True,
        squeeze=False,
        gridspec_kw={"height_ratios": heights},
    )
    for each, (name, steps) in zip(axes[:, 0], scenarios.items(), strict=True):
        labels = [f"+ {step['change']}" if step["change"] else "as built" for step in steps]
        loads = [step["load"] for step in steps]
        bars = each.barh(range(len(steps)), loads, color=_COLOURS[0], height=0.6)
        each.bar_label(bars, [_named(step) for step in steps], padding=4, fontsize=8)
        each.set_yticks(range(len(steps)), labels)
        each.invert_yaxis()
        each.set_xscale("log", base=2)
        each.axvline(1.0, color="#bbbbbb", linewidth=0.8, zorder=0)
        each.set_title(name, loc="left", fontsize=9)
        each.set_xlim(steps[0]["least_load"] / 2, 16.0)
    axes[-1, 0].set_xlabel("load at which the station beside the bar saturates (1: the target)")
    figure.savefig(path, dpi=110)
    plt.close(figure)
    return path
