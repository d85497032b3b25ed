"""Pictures of the routing study, from its result file alone. Run it with `python -m benchmarks.routing_pictures`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
from matplotlib.axes import Axes

from benchmarks.routing import RESULT

FOLDER = Path(__file__).parents[1] / "docs" / "pictures"
BLUE, ORANGE, GREEN, GREY = "#0072B2", "#E69F00", "#009E73", "#777777"
"""Of Okabe and Ito's palette, which everybody can tell apart."""
Rows = list[dict[str, Any]]


def main() -> None:
    """Draw all of them."""
    sections = {name: part["rows"] for name, part in json.loads(RESULT.read_text())["sections"].items()}
    FOLDER.mkdir(parents=True, exist_ok=True)
    plt.rcParams.update({"font.size": 10, "axes.spines.top": False, "axes.spines.right": False, "axes.axisbelow": True})
    for name, draw, rows in (
        ("routing_features", features, sections["features"]),
        ("routing_abstention", abstention, sections["heads_and_abstention"]),
        ("routing_background", background, sections["background"]),
        ("routing_width", width, [*sections["width"], widest(sections["shipped"][0])]),
    ):
        figure, axes = plt.subplots(figsize=(7.2, 3.6), layout="constrained")
        draw(axes, rows)
        figure.savefig(FOLDER / f"{name}.png", dpi=110)
        plt.close(figure)


def widest(row: dict[str, Any]) -> dict[str, Any]:
    """The shipped configuration among the widths."""
    return {key: row[key] for key in ("expansion", "mean", "sd")}


def features(axes: Axes, rows: Rows) -> None:
    """Routing and novelty of each model, depths and poolings."""
    chosen = [row for row in rows if row["head"] == "ridge"]
    names = [f"{row['model']} {_list(row['layers'])}\n{_list(row['poolings'])}" for row in chosen]
    _bars(
        axes,
        names,
        {
            "routing": (BLUE, [row["figures"]["routing"] for row in chosen]),
            "AUROC, messages of no domain": (ORANGE, [row["figures"]["outside_auroc"] for row in chosen]),
        },
    )
    axes.set_xlim(0.5, 1.0)
    axes.set_title("Features: ten domains, 180 messages each, expansion 1,024", loc="left", fontsize=10)


def abstention(axes: Axes, rows: Rows) -> None:
    """What each rule leaves to the base, with and without the background class."""
    chosen = [row for row in rows if row["head"] == "ridge"]
    names = [f"{row['abstention']}, {'with' if row['background']['texts'] else 'without'} background" for row in chosen]
    _bars(
        axes,
        names,
        {
            "messages of no domain left to the base": (BLUE, [row["figures"]["outside_rejected"] for row in chosen]),
            "general questions left to the base": (ORANGE, [row["figures"]["questions_rejected"] for row in chosen]),
        },
    )
    axes.set_xlim(0.0, 1.0)
    axes.set_title("Rules at keep = 0.95: ten domains, expansion 1,024", loc="left", fontsize=10)


def background(axes: Axes, rows: Rows) -> None:
    """How many general texts the background needs."""
    chosen = [row for row in rows if row["as"] == "class" and row["text"] == "general" and row["times"] == 1]
    counts = [row["texts"] for row in chosen]
    for key, label, colour, mark in (
        ("questions_rejected", "general questions left to the base", ORANGE, "o"),
        ("outside_rejected", "messages of no domain left to the base", BLUE, "s"),
        ("kept", "in-domain messages kept", GREEN, "^"),
    ):
        means = [row["mean"][key] for row in chosen]
        axes.errorbar(counts, means, [row["sd"][key] for row in chosen], color=colour, marker=mark, label=label)
    axes.set_xlabel("general texts in the background class")
    axes.set_ylim(0.65, 1.0)
    axes.grid(alpha=0.3)
    axes.legend(frameon=False, loc="lower right", fontsize=8)
    axes.set_title("Background: ten domains, expansion 1,024, three seeds", loc="left", fontsize=10)


def width(axes: Axes, rows: Rows) -> None:
    """What a wider expansion brings."""
    names = ["none" if row["expansion"] == 0 else f"{row['expansion']:,}" for row in rows]
    for key, label, colour, mark in (
        ("routing", "routing", BLUE, "s"),
        ("outside_auroc", "AUROC, messages of no domain", ORANGE, "o"),
        ("outside_rejected_at_test_keep", "rejected where 95 % of the test messages are kept", GREY, "^"),
    ):
        means = [row["mean"][key] for row in rows]
        axes.errorbar(names, means, [row["sd"].get(key, 0.0) for row in rows], color=colour, marker=mark, label=label)
    axes.set_xlabel("width of the expansion")
    axes.grid(alpha=0.3)
    axes.legend(frameon=False, loc="lower right", fontsize=8)
    axes.set_title("Width: MiniLM, ten domains, three seeds", loc="left", fontsize=10)


def _bars(axes: Axes, names: list[str], series: dict[str, tuple[str, list[float]]]) -> None:
    height = 0.8 / len(series)
    for place, (label, (colour, values)) in enumerate(series.items()):
        bars = axes.barh([each + place * height for each in range(len(names))], values, height, color=colour)
        bars.set_label(label)
        axes.bar_label(bars, [f"{value:.3f}".lstrip("0") for value in values], fontsize=7, padding=2)
    axes.set_yticks([each + height / 2 for each in range(len(names))], names, fontsize=8)
    axes.invert_yaxis()
    axes.figure.legend(loc="outside lower center", ncols=2, frameon=False, fontsize=8)


def _list(values: list[Any]) -> str:
    return "+".join(map(str, values))


if __name__ == "__main__":
    main()
