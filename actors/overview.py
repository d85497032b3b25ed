"""The state of the whole in words and figures, for the status page and the command line. It decides nothing."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from actors.ports import LearnerPort
from actors.report import IngestReport
from actors.spool import DomainBacklog
from registry.manifest import Route
from registry.registry import Registry


@dataclass
class Stage:
    """What happens to a domain now, for the status. Of the decisions, only when to try again rests on it."""

    state: str = "open"
    version: int | None = None
    detail: str = ""
    learner: LearnerPort | None = None
    attempts: int = 0
    retry_at: float = 0.0
    """Monotonic time before which a failed stage is left alone; infinite when trying again would change nothing."""
    awaits_examples: bool = False
    """Whether new examples make it worth trying again."""
    timings: dict[str, float] = field(default_factory=dict)


def describe_domain(
    name: str, route: Route | None, stage: Stage, backlog: DomainBacklog, rows: int, examples: int, registry: Registry
) -> dict[str, Any]:
    """Describe one domain: state, version in service, examples, what waits, figures of its versions."""
    learner = stage.learner
    progress = learner.progress() if learner is not None else None
    settled = stage.state in ("open", "published")
    return {
        "domain": name,
        "state": ("published" if route else "open") if settled else stage.state,
        "detail": stage.detail,
        "version": route.adapter if route else None,
        "pinned": bool(route and route.pinned),
        "examples": examples,
        "router_rows": rows,
        "waiting": {"train": backlog.train, "held_out": backlog.held_out, "sealed": sorted(backlog.sealed)},
        "progress": {"step": progress.step, "steps": progress.steps, "loss": progress.loss} if progress else None,
        "timings": dict(stage.timings),
        "versions": [
            {
                "name": adapter.name,
                "status": adapter.facts.status,
                "reason": adapter.facts.reason,
                "examples": adapter.facts.train_examples,
                "figures": adapter.facts.figures,
            }
            for adapter in registry.adapters(name)
        ],
    }


def describe_ingest(report: IngestReport) -> dict[str, Any]:
    """Describe one ingest worker."""
    return {
        "partitions": [f"{p.topic}[{p.partition}]" for p in sorted(report.partitions)],
        "spooled": report.spooled,
        "full": report.full,
        "polled": report.polled,
        "dead_letters": report.dead_letters,
        "duplicates": report.duplicates,
        "trouble": dict(report.trouble),
    }
