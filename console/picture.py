"""A system's status as a picture in a terminal: the stream, the domains, the replicas, what fails. It asks nobody."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Iterator

from rich.console import Group, RenderableType
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from serving.api import DomainStatus, IngestStatus, SystemStatus, TrainingProgress

WINDOW_S = 10.0
"""Over how long rates are taken: workers tell their counters every few seconds."""
BAR = 16
"""Width of a progress bar, in characters."""

_ORDER = {"failed": 0, "learning": 1, "publishing": 1, "closed": 2, "rejected": 3, "open": 4, "published": 5}
_STYLES = {"failed": "red", "rejected": "yellow", "learning": "cyan", "publishing": "cyan", "published": "green"}


class Rates:
    """Records read in a second, by worker: differences of counters, which begin anew with their worker."""

    def __init__(self) -> None:
        self._seen: dict[str, deque[tuple[float, int]]] = {}

    def saw(self, status: SystemStatus, at: float) -> None:
        """Take in a status that was had at `at`, in seconds of a steady clock."""
        names = {worker.name for worker in status.ingest}
        self._seen = {name: seen for name, seen in self._seen.items() if name in names}
        for worker in status.ingest:
            seen = self._seen.setdefault(worker.name, deque())
            if seen and worker.polled < seen[-1][1]:
                seen.clear()
            seen.append((at, worker.polled))
            while len(seen) > 2 and at - seen[1][0] >= WINDOW_S:
                seen.popleft()

    def of(self, worker: str) -> float | None:
        """Of a worker; None before it was seen twice."""
        seen = self._seen.get(worker, deque())
        if len(seen) < 2 or seen[-1][0] <= seen[0][0]:
            return None
        return (seen[-1][1] - seen[0][1]) / (seen[-1][0] - seen[0][0])


def picture(status: SystemStatus, rates: Rates, url: str, rows: int = 1_000_000) -> RenderableType:
    """The whole; of the domains the `rows` that matter most now."""
    head = Text.assemble(
        (f"manifest {status.manifest}", "bold"),
        f"  {url}  {time.strftime('%H:%M:%S')}",
        "" if status.manifest else "  nothing is published yet",
    )
    return Group(head, _ingest(status, rates), _domains(status.domains, rows), _replicas(status), *_troubles(status))


def _ingest(status: SystemStatus, rates: Rates) -> Table:
    table = _table("stream", "lag", "read/s", "read", "known", "dead letters", "in the spool")
    for worker in status.ingest:
        rate = rates.of(worker.name)
        full = Text(" full: paused", style="yellow") if worker.full else Text()
        table.add_row(
            worker.name,
            _lag(worker),
            "-" if rate is None else f"{rate:,.0f}",
            f"{worker.polled:,}",
            f"{worker.duplicates:,}",
            Text(f"{worker.dead_letters:,}", style="yellow" if worker.dead_letters else ""),
            Text(f"{worker.spooled:,}") + full,
        )
    return table


def _lag(worker: IngestStatus) -> str:
    return f"{sum(worker.lag.values()):,}" if worker.lag else "-"


def _domains(domains: tuple[DomainStatus, ...], rows: int) -> Table:
    table = _table("domain", "state", "", "loss", "examples", "waiting", "routed right", "version")
    ordered = sorted(domains, key=lambda domain: (_ORDER.get(domain.state, 4), domain.domain))
    for domain in ordered[:rows]:
        progress = domain.progress
        table.add_row(
            domain.domain,
            Text(domain.state, style=_STYLES.get(domain.state, "")),
            _bar(progress) if progress else "",
            "" if progress is None or progress.loss is None else f"{progress.loss:.3f}",
            f"{domain.examples:,}",
            f"{domain.waiting.train + domain.waiting.held_out:,}",
            "" if domain.prequential is None else f"{domain.prequential:.1%}",
            (domain.version or "-") + (" (pinned)" if domain.pinned else ""),
        )
    if len(ordered) > rows:
        table.add_row(f"and {len(ordered) - rows:,} more")
    return table


def _bar(progress: TrainingProgress) -> Table:
    beside = Table.grid(padding=(0, 1))
    bar = ProgressBar(total=max(1, progress.steps), completed=progress.step, width=BAR)
    beside.add_row(bar, f"{progress.step}/{progress.steps}")
    return beside


def _replicas(status: SystemStatus) -> Table:
    table = _table("replica", "manifest", "")
    for name, replica in status.replicas.items():
        behind = replica.manifest < status.manifest
        says = Text(f"behind, for {replica.lag_seconds:.0f} s", style="yellow") if behind else Text()
        if replica.fenced:
            says = Text("takes no requests", style="red")
        table.add_row(name, str(replica.manifest), says)
    return table


def _troubles(status: SystemStatus) -> Iterator[Text]:
    for who, what in status.troubles():
        yield Text(f"trouble: {who}: {what}", style="red")


def _table(*columns: str) -> Table:
    table = Table(box=None, pad_edge=False, header_style="dim", padding=(0, 2, 0, 0))
    for column in columns:
        table.add_column(column, overflow="ellipsis", no_wrap=True)
    return table
