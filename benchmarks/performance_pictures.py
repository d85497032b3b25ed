"""Pictures of docs/performance.md, from result files alone. Run it with `python -m benchmarks.performance_pictures`."""

from __future__ import annotations

import json
import statistics
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import matplotlib.pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from benchmarks import front_end, ingest, lora_rows, routed, slots
from benchmarks.routing_pictures import BLUE, FOLDER, GREY, ORANGE

Figures = Mapping[str, Any]


def main() -> None:
    """Draw all of them."""
    benchmarks = {"front_end": front_end, "ingest": ingest, "lora_rows": lora_rows, "routed": routed, "slots": slots}
    draw(FOLDER, {name: json.loads(each.RESULT.read_text()) for name, each in benchmarks.items()})


def draw(folder: Path, results: Mapping[str, Figures]) -> None:
    """Write the pictures into `folder`; `results` by the benchmarks' names."""
    folder.mkdir(parents=True, exist_ok=True)
    plt.rcParams.update({"font.size": 9, "axes.spines.top": False, "axes.spines.right": False, "axes.axisbelow": True})
    drawn: dict[str, tuple[float, Callable[[Figure], None]]] = {
        "performance_request": (2.9, lambda figure: request(figure, results["front_end"], results["routed"])),
        "performance_domains": (2.3, lambda figure: domains(figure.subplots(), results["slots"])),
        "performance_rows": (2.6, lambda figure: rows(figure.subplots(), results["lora_rows"])),
        "performance_ingest": (3.0, lambda figure: records(figure.subplots(), results["ingest"])),
    }
    for name, (height, fill) in drawn.items():
        figure = plt.figure(figsize=(7.6, height), layout="constrained")
        fill(figure)
        figure.savefig(folder / f"{name}.png", dpi=110)
        plt.close(figure)


def request(figure: Figure, front: Figures, choosing: Figures) -> None:
    """Processor time of one request: before the engine, choosing who answers, in the engine."""
    names = ("adapter, vLLM's server", "adapter by name", "auto, a new text", "base, vLLM's server", "base")
    every = figure.subplots(1, len(front_end.IN_FLIGHT), sharey=True)
    for axes, in_flight in zip(every, front_end.IN_FLIGHT, strict=True):
        (vllm, ours), (vllm_base, our_base) = (
            [_median(front, of, in_flight, server) for server in ("vllm", "anabranch")] for of in ("named", "base")
        )
        more = choosing["by_concurrency"][str(in_flight)]["routed_against_named"]["cpu_ms_more"]
        parts = [each.front for each in (vllm, ours, ours, vllm_base, our_base)]
        engine = [each.engine for each in (vllm, ours, ours, vllm_base, our_base)]
        left = [0.0] * len(names)
        for label, colour, values in (
            ("HAProxy, replica, API classes", BLUE, parts),
            ("choosing who answers", ORANGE, [0.0, 0.0, more, 0.0, 0.0]),
            ("engine", GREY, engine),
        ):
            bars = axes.barh(names, values, left=left, color=colour, label=label)
            left = [sum(pair) for pair in zip(left, values, strict=True)]
        axes.bar_label(bars, [f"{value:.0f}" for value in left], fontsize=7, padding=2)
        axes.set_title(f"{in_flight} at once", loc="left", fontsize=9)
        axes.margins(x=0.12)
    every[0].invert_yaxis()
    every[1].set_xlabel("processor ms a request of 16 tokens")
    figure.legend(*every[0].get_legend_handles_labels(), loc="outside lower center", ncols=3, frameon=False, fontsize=8)


class _Spent(NamedTuple):
    front: float
    engine: float


def _median(result: Figures, rows_of: str, in_flight: int, server: str) -> _Spent:
    same = [turn[server] for turn in result["turns"] if (turn["rows"], turn["in_flight"]) == (rows_of, in_flight)]
    return _Spent(*(statistics.median(turn[key] for turn in same) for key in ("front_ms", "engine_ms")))


def domains(axes: Axes, result: Figures) -> None:
    """How long requests for popular and for rare domains wait, with turns and without."""
    names = ["ten most popular", "rarest hundred"]
    for place, (way, label, colour) in enumerate(
        (("gated", "turns, 32 of 200 in memory", BLUE), ("alone", "the engine alone, all in memory", GREY))
    ):
        waits = result["p99_seconds"][way]
        bars = axes.barh([each + 0.4 * place for each in range(2)], [waits["popular"], waits["rare"]], 0.4)
        for bar in bars:
            bar.set_color(colour)
        bars.set_label(label)
        axes.bar_label(bars, fmt="%.1f", fontsize=8, padding=2)
    axes.set_yticks([0.2, 1.2], names)
    axes.invert_yaxis()
    axes.set_xlabel("seconds at p99")
    axes.figure.legend(loc="outside lower center", ncols=2, frameon=False, fontsize=8)


def rows(axes: Axes, result: Figures) -> None:
    """Tokens a second with grouped rows, and without any adapter, in those of vLLM's own products."""
    places = [(base, str(count)) for base in ("demo", "drawn") for count in lora_rows.AT_ONCE]
    for place, (way, label, colour) in enumerate(
        (("grouped", "rows grouped by adapter", BLUE), ("base", "no adapter at all", GREY))
    ):
        rates = [result[base]["tokens_a_second"] for base, _ in places]
        ratios = [rate[way][count] / rate["plain"][count] for rate, (_, count) in zip(rates, places, strict=True)]
        bars = axes.bar([each + 0.4 * place for each in range(len(places))], ratios, 0.4, color=colour, label=label)
        axes.bar_label(bars, fmt="%.1f", fontsize=7, padding=2)
    axes.axhline(1.0, color="black", linewidth=0.8)
    axes.set_xticks([each + 0.2 for each in range(len(places))], [f"{base}, {count} at once" for base, count in places])
    axes.tick_params(axis="x", labelsize=8)
    axes.set_ylabel("times vLLM's tokens a second")
    axes.figure.legend(loc="outside lower center", ncols=2, frameon=False, fontsize=8)


def records(axes: Axes, result: Figures) -> None:
    """Records a processor second, as shares of the bare consumer's."""
    ways = list(result["application/json"]["of_the_bare_consumer"])
    for place, (kind, colour) in enumerate((("application/json", BLUE), ("application/msgpack", ORANGE))):
        shares = [result[kind]["of_the_bare_consumer"][way]["median"] for way in ways]
        bars = axes.barh([each + 0.4 * place for each in range(len(ways))], shares, 0.4, color=colour, label=kind)
        axes.bar_label(bars, fmt="%.2f", fontsize=7, padding=2)
    axes.set_yticks([each + 0.2 for each in range(len(ways))], ways, fontsize=8)
    axes.invert_yaxis()
    axes.set_xlabel("records a processor second, of the bare consumer's")
    axes.legend(frameon=False, loc="lower right", fontsize=8)


if __name__ == "__main__":
    main()
