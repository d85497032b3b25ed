"""What makes room in a worker's spool, so that no domain keeps the stream from the others. It decides and does nothing.

In a full spool the domain that fills it most is learned, though nobody said that it is complete: it would wait for ever
for one that never ends. Before it comes to that, one that takes more than its share while others wait beside it
(`ingest.domain_share`) is dealt with alone. What can't be learned is given up: rows that only wait for more, as all are
held out or tried, and those of a domain that rests as its versions are rejected, or refused again and again. A domain
that is learned, or whose training fails for no fault of its own, is waited for: nothing of it is lost.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Literal

from actors.backlog import DomainBacklog
from actors.report import IngestReport
from actors.stage import Stage

_ENOUGH = 0.2
"""Share of a full spool that lets its worker read on, once it is free."""


@dataclass(frozen=True)
class Step:
    """What is to be done with a domain. `reopen`: what is sealed of it, to be given up after that."""

    domain: str
    what: Literal["close", "give up", "reopen"]


def steps_for(
    report: IngestReport, backlogs: Mapping[str, DomainBacklog], stages: Mapping[str, Stage], busy: Collection[str]
) -> tuple[list[Step], bool]:
    """Return what is to be done on a worker, and whether it is stuck: full, and nothing can be done or is under way.

    `busy` are the domains that are worked on.
    """
    found: dict[str, Step] = {}
    is_dropping = False
    for domain in sorted(report.rows.keys() & backlogs.keys() - set(busy), key=lambda each: -report.rows[each]):
        if _open_rows(backlogs[domain]) + report.unobserved.get(domain, 0) < report.rows[domain] / 2:
            # Settled or given up by now, and the worker has not heard of it yet.
            is_dropping = True
        elif step := _step(domain, backlogs[domain], stages.get(domain, Stage())):
            found[domain] = step
    if len(report.rows) > 1 and (crowding := [step for domain, step in found.items() if domain in report.over_share]):
        return crowding, False
    under_way = sum(report.rows.get(domain, 0) for domain in busy)
    if not report.full or under_way >= _ENOUGH * sum(report.rows.values()):
        return [], False
    closing = [step for step in found.values() if step.what == "close"]
    return (closing or list(found.values()))[:1], not (found or is_dropping or under_way)


def _open_rows(backlog: DomainBacklog) -> int:
    return backlog.ledger.train + backlog.ledger.held_out


def _step(domain: str, backlog: DomainBacklog, stage: Stage) -> Step | None:
    if backlog.is_trainable and stage.is_due(backlog.ledger.fresh):
        return Step(domain, "close")
    if backlog.ledger.seal is not None:
        return Step(domain, "reopen") if stage.is_resting else None
    is_resting = stage.is_resting and _open_rows(backlog) > 0
    return Step(domain, "give up") if backlog.only_waits or is_resting else None
