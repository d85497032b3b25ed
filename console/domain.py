"""One domain as a person reads it: its state, what is in service segment by segment, and what the gate said of each
version. Knows the status, not where it comes from."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from rich.table import Table

from console.terminal import out

if TYPE_CHECKING:
    from serving.api import DomainStatus


def print_domain(domain: DomainStatus) -> None:
    """Print it to the terminal."""
    detail = f": {domain.detail}" if domain.detail else ""
    out.print(f"{domain.domain}: {domain.state}{detail}")
    pinned = " (pinned)" if domain.pinned else ""
    out.print(
        f"version {domain.version or '-'}{pinned}" + (f", waiting {domain.withdrawn}" if domain.withdrawn else "")
    )
    waiting = domain.waiting.train + domain.waiting.held_out
    out.print(f"examples {domain.examples}, in the router {domain.router_rows}, waiting {waiting}")
    if domain.prequential is not None:
        rows = f"the last {domain.prequential_rows} rows, before they were learned"
        out.print(f"routed right {100 * domain.prequential:.1f} % of {rows}")
    if domain.segments:
        table = Table("segment", "version", "exam", "in the router", "figures")
        for each in domain.segments:
            table.add_row(
                str(each.segment), each.version, str(each.examples), str(each.router_rows), _figures(each.figures)
            )
        out.print(table)
    if domain.versions:
        table = Table("version", "segment", "status", "examples", "the gate's words", "figures")
        for version in domain.versions:
            beside = f" beside {', '.join(version.beside)}" if version.beside else ""
            table.add_row(
                version.name,
                f"{version.segment}{beside}",
                version.status,
                str(version.examples),
                version.reason,
                _figures(version.figures),
            )
        out.print(table)


def _figures(figures: Mapping[str, float | None]) -> str:
    return ", ".join(f"{name} {'-' if value is None else format(value, '.4g')}" for name, value in figures.items())
