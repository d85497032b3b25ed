"""What a run of the real model was like: the figures of each domain, of the general questions, and their summary."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from rich.table import Table

from benchmarks.evaluation import Accuracy, Outcome
from serving.api import DomainStatus


@dataclass
class LearnedDomain:
    """One domain: how long it took, and what its test questions got once all domains were served."""

    name: str
    records: int
    seconds: float
    """From its last record to the first answer that was routed to it."""
    by_name: Accuracy | None = None
    routed: Accuracy | None = None


@dataclass
class GeneralAnswers:
    """What became of general questions: of the model `auto`, and of the base asked by name."""

    after_domains: list[str]
    asked: int
    by_the_base: int
    """Of `auto`, those that the base model answered."""
    same_text: int
    """Of these, those whose text is the one that the base gives."""
    failed: int
    to_domains: dict[str, int]

    @classmethod
    def of(cls, after: Sequence[str], auto: Sequence[Outcome], base: Sequence[Outcome]) -> GeneralAnswers:
        """Count the answers to the same questions, in the same order."""
        pairs = [(a, b) for a, b in zip(auto, base, strict=True) if a.status == b.status == 200]
        kept = [(a, b) for a, b in pairs if a.domain == "base"]
        elsewhere = [a.domain for a, _ in pairs if a.domain != "base"]
        return cls(
            after_domains=list(after),
            asked=len(auto),
            by_the_base=len(kept),
            same_text=sum(a.text == b.text for a, b in kept),
            failed=sum(each.status != 200 for each in (*auto, *base)),
            to_domains={name: elsewhere.count(name) for name in sorted(set(elsewhere))},
        )


@dataclass
class Run:
    """All of one run."""

    domains: list[LearnedDomain] = field(default_factory=list)
    general: GeneralAnswers | None = None
    questions: int = 0
    """Most test questions of a domain."""
    requests: int = 0
    failed: int = 0
    seconds: float = 0.0
    status: dict[str, DomainStatus] = field(default_factory=dict)


def summarise(run: Run) -> dict[str, Any]:
    """The run as it goes into the result file: fractions are 0 to 1, times seconds."""
    by_name = _mean([each.by_name.exact_match for each in run.domains if each.by_name])
    routed = _mean([each.routed.exact_match for each in run.domains if each.routed])
    return {
        "exact_match_by_name": by_name,
        "exact_match_routed": routed,
        "routed_over_by_name": round(routed / by_name, 4) if by_name else None,
        "routing_accuracy": _mean([each.routed.routed_right for each in run.domains if each.routed]),
        "general": _general(run.general),
        "requests": run.requests,
        "failed_requests": run.failed,
        "questions_a_domain": run.questions,
        "seconds": round(run.seconds, 1),
        "by_domain": {each.name: _domain(each, run.status.get(each.name)) for each in run.domains},
    }


def table(result: dict[str, Any]) -> Table:
    """The result to be read."""
    shown = Table("domain", "records", "s to first answer", "by name", "routed", "routing")
    for name, row in result["by_domain"].items():
        fractions = (f"{row[key]:.3f}" for key in ("by_name", "routed", "routing"))
        shown.add_row(name, str(row["records"]), f"{row['seconds_to_first_routed_answer']:.0f}", *fractions)
    means = (result[key] for key in ("exact_match_by_name", "exact_match_routed", "routing_accuracy"))
    shown.add_section()
    shown.add_row("mean", "", "", *(f"{mean:.3f}" for mean in means))
    return shown


def lines(result: dict[str, Any]) -> list[str]:
    """What the table does not say."""
    said = [f"routed over by name: {result['routed_over_by_name']}"]
    if general := result["general"]:
        said.append(
            f"general questions, {len(general['after_domains'])} domains published: {general['share_by_the_base']:.3f} "
            f"of {general['asked']} answered by the base, {general['share_same_text']} of these in the base's own words"
        )
    said.append(f"{result['failed_requests']} of {result['requests']} requests failed; {result['seconds']:.0f} s")
    return said


def _domain(learned: LearnedDomain, status: DomainStatus | None) -> dict[str, Any]:
    figures = status.versions[-1].figures if status and status.versions else {}
    return {
        "records": learned.records,
        "seconds_to_first_routed_answer": round(learned.seconds, 1),
        "by_name": learned.by_name.exact_match if learned.by_name else None,
        "routed": learned.routed.exact_match if learned.routed else None,
        "routing": learned.routed.routed_right if learned.routed else None,
        "segments": len(status.segments) if status else None,
        "figures": figures,
        "timings": {name: round(value, 3) for name, value in status.timings.items()} if status else {},
    }


def _general(general: GeneralAnswers | None) -> dict[str, Any] | None:
    if general is None:
        return None
    return {
        "after_domains": general.after_domains,
        "asked": general.asked,
        "share_by_the_base": round(general.by_the_base / general.asked, 4),
        "share_same_text": round(general.same_text / general.by_the_base, 4) if general.by_the_base else None,
        "to_domains": general.to_domains,
        "failed_requests": general.failed,
    }


def _mean(values: Sequence[float]) -> float:
    return round(sum(values) / len(values), 4) if values else 0.0
