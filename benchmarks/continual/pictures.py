"""Pictures of a run's result: heat maps of the accuracy matrices, and curves of AA with their spreads."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl
import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes

_COLUMNS = 4
_STYLES = ("-", "--", ":", "-.")
_COLOURS = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00", "#777777", "#000000")
"""Of Okabe and Ito's palette, which everybody can tell apart; lines beyond it differ in their dashes."""
Curves = dict[str, list[list[float]]]


def draw(result: Mapping[str, Any], folder: Path) -> list[Path]:
    """Writes the pictures and returns where they are; none for a result without a finished course."""
    if not result["methods"]:
        return []
    folder.mkdir(parents=True, exist_ok=True)
    mpl.use("Agg")
    with plt.rc_context({"font.size": 9, "axes.spines.top": False, "axes.spines.right": False}):
        made = [_curves(result, folder / "curves.png")]
        for order in sorted({course["order"] for course in result["courses"]}):
            made.append(_matrices(result, order, folder / f"matrices-order{order}.png"))
        if any(router["runs"] for router in result["routers"].values()):
            made.append(_confusions(result, folder / "routing.png"))
    return made


def _matrices(result: Mapping[str, Any], order: int, path: Path) -> Path:
    """By name, mean over seeds, one panel a method."""
    tasks = result["orders"][order]
    found = {label: _mean_matrix(result, label, order) for label in result["methods"]}
    panels = {label: matrix for label, matrix in found.items() if matrix is not None}
    _panels(panels, tasks, path, f"Score on each task (across) after each task (down), order {order}")
    return path


def _confusions(result: Mapping[str, Any], path: Path) -> Path:
    """Shares of each task's rows that are taken for each, after the last task of the first order."""
    tasks = list(dict.fromkeys(result["orders"][0]))
    panels = {}
    for label, router in result["routers"].items():
        if router["runs"]:
            counts_TT = np.array([[float(router["confusion"][task].get(name, 0)) for name in tasks] for task in tasks])
            panels[label] = counts_TT / counts_TT.sum(axis=1, keepdims=True)
    _panels(panels, tasks, path, "Share of a task's rows (down) that is taken for a task (across)")
    return path


def _panels(panels: Mapping[str, Any], tasks: Sequence[str], path: Path, title: str) -> None:
    # As square as may be, up to a page's width.
    columns = min(_COLUMNS, math.ceil(math.sqrt(len(panels)) * 1.2))
    columns = min(columns, len(panels))
    rows = math.ceil(len(panels) / columns)
    side = 1.5 + 0.3 * len(tasks)
    names = max(len(task) for task in tasks) * 0.07
    size = (columns * side + names + 0.8, rows * (side + 0.25) + names + 0.6)
    figure, axes = plt.subplots(rows, columns, figsize=size, layout="constrained", squeeze=False)
    image = None
    for place, each in enumerate(axes.flat):
        if place >= len(panels):
            each.set_visible(False)
            continue
        label, matrix = list(panels.items())[place]
        image = each.imshow(matrix, vmin=0.0, vmax=1.0, cmap="viridis")
        last_row = place + columns >= len(panels)
        _ticks(each, tasks, down=place % columns == 0, across=last_row)
        _values(each, matrix)
        each.set_title(_wrapped(label), fontsize=8)
    if image is not None:
        figure.colorbar(image, ax=axes, shrink=0.7, pad=0.01)
    figure.suptitle(title, fontsize=10)
    # Names of tasks may reach beyond the page.
    figure.savefig(path, dpi=110, bbox_inches="tight")
    plt.close(figure)


def _ticks(axes: Axes, tasks: Sequence[str], *, down: bool, across: bool) -> None:
    places = range(len(tasks))
    axes.set_xticks(places, tasks if across else [""] * len(tasks), rotation=90, fontsize=7)
    axes.set_yticks(places, tasks if down else [""] * len(tasks), fontsize=7)
    axes.spines[:].set_visible(False)
    axes.tick_params(length=0)


def _values(axes: Axes, matrix: Any) -> None:
    size = 7 if len(matrix) <= 8 else 5.5
    for down, across in np.ndindex(*matrix.shape):
        value = matrix[down, across]
        colour = "white" if value < 0.6 else "black"
        axes.text(across, down, f"{value:.2f}".lstrip("0"), ha="center", va="center", fontsize=size, color=colour)


def _curves(result: Mapping[str, Any], path: Path) -> Path:
    """AA after each task over those learned so far, by name on the left and routed on the right."""
    panels = {"by name": _aa(result, None)}
    for router in dict.fromkeys(name for method in result["methods"].values() for name in method["routed"]):
        panels[f"routed: {router}"] = _aa(result, router)
        break  # the first; the table has the others
    figure, axes = plt.subplots(
        1, len(panels), figsize=(4.6 * len(panels), 3.8), layout="constrained", squeeze=False, sharey=True
    )
    labels = list(result["methods"])
    for each, (title, curves) in zip(axes.flat, panels.items(), strict=True):
        for label, runs in curves.items():
            place = labels.index(label)
            _curve(each, label, runs, _COLOURS[place % len(_COLOURS)], _STYLES[place // len(_COLOURS) % len(_STYLES)])
        each.set_title(title, loc="left", fontsize=10)
        each.set_xlabel("tasks learned")
        each.set_xticks(range(1, len(result["orders"][0]) + 1))
        each.set_ylim(0.0, 1.0)
        each.grid(alpha=0.3)
    axes[0, 0].set_ylabel("AA")
    handles, names = axes[0, 0].get_legend_handles_labels()
    figure.legend(handles, names, loc="outside lower center", ncols=min(3, len(names)), frameon=False, fontsize=7)
    figure.savefig(path, dpi=110)
    plt.close(figure)
    return path


def _curve(axes: Axes, label: str, runs: list[list[float]], colour: str, style: str) -> None:
    runs_NT = np.array(runs)
    mean_T, places = runs_NT.mean(axis=0), range(1, runs_NT.shape[1] + 1)
    axes.plot(places, mean_T, style, color=colour, marker="o", markersize=3, linewidth=1.4, label=label)
    if len(runs) > 1:
        spread_T = runs_NT.std(axis=0, ddof=1)
        axes.fill_between(places, mean_T - spread_T, mean_T + spread_T, color=colour, alpha=0.15, linewidth=0)


def _aa(result: Mapping[str, Any], router: str | None) -> Curves:
    """Of each method, AA after each task in every course."""
    found: Curves = {}
    for course in result["courses"]:
        if router is None or router in course["routed"]:
            matrix = course["matrix"] if router is None else course["routed"][router]["matrix"]
            curve = [float(np.mean(row[: at + 1])) for at, row in enumerate(matrix)]
            found.setdefault(course["method"], []).append(curve)
    return found


def _mean_matrix(result: Mapping[str, Any], label: str, order: int) -> Any:
    of = [each["matrix"] for each in result["courses"] if (each["method"], each["order"]) == (label, order)]
    return np.mean(np.array(of), axis=0) if of else None


def _wrapped(label: str) -> str:
    name, _, settings = label.partition(" ")
    return f"{name}\n{settings}" if settings else name
