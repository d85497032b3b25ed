"""The demo's report: a table on the terminal, `report.json`, and heat maps as PNG."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from benchmarks.hardware import describe, versions
from console.measured import Measured
from learning.metrics import backward_transfer


def write_report(measured: Measured, folder: Path, stream: str, console: Console) -> dict[str, Any]:
    """Write the report of a demo into `folder`, print its table, and return what `report.json` holds."""
    folder.mkdir(parents=True, exist_ok=True)
    report = summarise(measured, stream)
    (folder / "report.json").write_text(json.dumps(report, indent=1) + "\n")
    _plot_accuracy(measured, folder / "accuracy_matrix.png")
    _plot_routing(measured, folder / "routing.png")
    _print(report, measured, console)
    console.print(f"report: {folder / 'report.json'}, {folder / 'accuracy_matrix.png'}, {folder / 'routing.png'}")
    return report


def summarise(measured: Measured, stream: str) -> dict[str, Any]:
    """Turn what was measured into the report: fractions are 0 to 1, times seconds."""
    publications = {
        each.domain: round(each.timings["publication_seconds"], 3)
        for each in (measured.status.domains if measured.status else ())
        if "publication_seconds" in each.timings
    }
    square = [[value if value is not None else 0.0 for value in row] for row in measured.matrix]
    return {
        "domains": measured.domains,
        "stream": stream.split(":")[0],
        "base_exact_match": _mean(a.exact_match for a in measured.base.values()),
        "routed_exact_match": _mean(a.exact_match for a in measured.routed.values()),
        "oracle_exact_match": _mean(a.exact_match for a in measured.oracle.values()),
        "routing_accuracy": _mean(a.routed_right for a in measured.routed.values()),
        "bwt": backward_transfer(square) if len(square) > 1 else 0.0,
        "failed_requests": measured.failed_requests,
        "requests": measured.requests,
        "seconds": round(measured.seconds, 1),
        "seconds_to_first_routed_answer": {d: round(s, 2) for d, s in measured.seconds_to_first_routed_answer.items()},
        "first_publication_seconds": publications.get(measured.domains[0]),
        "publication_seconds": publications,
        "accuracy_matrix": measured.matrix,
        "late_matrix_answers": measured.late_matrix_answers,
        "routed_to": measured.routed_to,
        "by_domain": {
            d: {
                "base": measured.base[d].exact_match,
                "routed": measured.routed[d].exact_match,
                "oracle": measured.oracle[d].exact_match,
                "routing": measured.routed[d].routed_right,
                "records": measured.records_fed[d],
            }
            for d in measured.domains
        },
        "manifests_seen_by_the_client": measured.manifests_seen,
        "versions": versions(),
        "hardware": describe(),
    }


def _mean(values: Iterable[float]) -> float:
    found = list(values)
    return round(sum(found) / len(found), 4)


def _plot_accuracy(measured: Measured, path: Path) -> None:
    rows = [f"after {domain}" for domain in measured.domains]
    _heat_map(measured.matrix, rows, measured.domains, "Exact match of routed answers", path)


def _plot_routing(measured: Measured, path: Path) -> None:
    columns = [*measured.domains, "base"]
    table: list[list[float | None]] = []
    for domain in measured.domains:
        row = measured.routed_to[domain]
        asked = sum(row.values())
        table.append([row.get(column, 0) / asked for column in columns])
    _heat_map(table, measured.domains, columns, "Where prompts of a domain (rows) were routed (columns)", path)


def _heat_map(
    values: Sequence[Sequence[float | None]], rows: Sequence[str], columns: Sequence[str], title: str, path: Path
) -> None:
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt
    import numpy as np

    grid = np.array([[np.nan if v is None else v for v in row] for row in values], dtype=float)
    figure, axes = plt.subplots(figsize=(2.8 + 0.85 * len(columns), 2.2 + 0.55 * len(rows)), layout="constrained")
    colours = plt.get_cmap("viridis").with_extremes(bad="0.93")
    image = axes.imshow(grid, vmin=0, vmax=1, cmap=colours, aspect="auto")
    axes.set_xticks(range(len(columns)), columns, rotation=35, ha="right")
    axes.set_yticks(range(len(rows)), rows)
    for (y, x), value in np.ndenumerate(grid):
        if not np.isnan(value):
            axes.text(x, y, f"{value:.2f}", ha="center", va="center", color="white" if value < 0.6 else "black", size=9)
    axes.set_title(title, size=11)
    figure.colorbar(image, ax=axes, shrink=0.85)
    figure.savefig(path, dpi=110)
    plt.close(figure)


def _print(report: dict[str, Any], measured: Measured, console: Console) -> None:
    table = Table("domain", "records", "base", "routed", "by name", "routing", "first routed answer (s)")
    for domain, row in report["by_domain"].items():
        table.add_row(
            domain,
            str(row["records"]),
            *(f"{row[key]:.3f}" for key in ("base", "routed", "oracle", "routing")),
            f"{measured.seconds_to_first_routed_answer[domain]:.1f}",
        )
    table.add_section()
    table.add_row(
        "mean",
        "",
        *(f"{report[k]:.3f}" for k in ("base_exact_match", "routed_exact_match", "oracle_exact_match")),
        f"{report['routing_accuracy']:.3f}",
        "",
    )
    console.print(table)
    console.print(
        f"BWT {report['bwt']:+.4f}   requests {report['requests']}, failed {report['failed_requests']}   "
        f"{report['seconds']:.0f} s in all"
    )
