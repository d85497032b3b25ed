"""What is kept of a training beside the adapter: the gate's verdict and the figures it rests on."""

from __future__ import annotations

from datetime import UTC, datetime

from actors.training import Trained, TrainingOrder
from learning.gate import Verdict
from registry.adapters import AdapterFacts


def facts_of(
    order: TrainingOrder, trained: Trained, verdict: Verdict, *, base_digest: str, learner: str
) -> AdapterFacts:
    """Return the facts of a version; losses in nats a token, durations in seconds."""
    result = trained.result
    figures = {
        "steps": float(result.steps),
        "epochs": result.epochs,
        "seconds": result.seconds,
        "train_loss": result.train_loss,
    }
    for name, evaluation in (("candidate", result.candidate), ("base", result.base), ("incumbent", result.incumbent)):
        if evaluation is not None:
            figures[f"{name}_loss"] = evaluation.loss
            figures[f"{name}_exact_match"] = evaluation.exact_match
    return AdapterFacts(
        domain=order.domain,
        version=order.seal.version,
        status="accepted" if verdict.accepted else "rejected",
        reason=verdict.reason,
        rank=result.rank,
        base_digest=base_digest,
        learner=learner,
        train_examples=trained.train_examples,
        held_out_examples=result.candidate.examples,
        figures=figures,
        created_at=datetime.now(UTC),
    )
