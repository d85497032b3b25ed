"""What is kept of a training beside the adapter: the gate's verdict and the figures it rests on."""

from __future__ import annotations

from datetime import UTC, datetime

from actors.training import Trained, TrainingOrder
from learning.contract import NewAdapter
from learning.gate import Verdict
from registry.adapters import AdapterFacts


def facts_of(
    order: TrainingOrder,
    trained: Trained,
    adapter: NewAdapter,
    verdict: Verdict,
    *,
    segment: int,
    base_digest: str,
    learner: str,
) -> AdapterFacts:
    """Return the facts of a version of `segment`; losses in nats a token, durations in seconds."""
    result = trained.result
    figures = {
        "steps": float(result.steps),
        "epochs": result.epochs,
        "seconds": result.seconds,
        "train_loss": result.train_loss,
        "skipped": float(result.skipped),
    }
    evaluations = {"candidate": adapter.candidate, "base": adapter.base, "incumbent": adapter.incumbent}
    for each in result.touched:
        if (each.domain, each.segment) == (adapter.domain, adapter.continues):
            evaluations |= {"exam_before": each.before, "exam_after": each.after}
    for name, evaluation in evaluations.items():
        if evaluation is not None:
            figures[f"{name}_loss"] = evaluation.loss
            figures[f"{name}_exact_match"] = evaluation.exact_match
    exam = trained.continued_exam if segment == adapter.continues else trained.exam
    return AdapterFacts(
        domain=order.domain,
        version=order.seal.version,
        status="accepted" if verdict.accepted else "rejected",
        reason="; ".join(filter(None, [verdict.reason, trained.trouble])),
        rank=adapter.rank,
        base_digest=base_digest,
        learner=learner,
        segment=segment,
        beside=tuple(each.name for each in order.segments if each.number != segment),
        exam_rows=len(exam.splitlines()),
        train_examples=trained.train_examples,
        held_out_examples=adapter.candidate.examples,
        figures=figures,
        created_at=datetime.now(UTC),
    )
