"""What is kept of a training beside an adapter: the gate's words and the figures they rest on."""

from __future__ import annotations

from learning.contract import NewAdapter, TrainingResult


def figures_of(adapter: NewAdapter, result: TrainingResult) -> dict[str, float]:
    """Return the figures of an adapter of a result by name; losses in nats a token, durations in seconds."""
    figures = {
        "steps": float(result.steps),
        "epochs": result.epochs,
        "seconds": result.seconds,
        "resumed_from": float(result.resumed_from),
        "train_loss": result.train_loss,
        "skipped": float(result.skipped),
        "shortened": float(result.shortened),
    }
    evaluations = {"candidate": adapter.candidate, "base": adapter.base, "incumbent": adapter.incumbent}
    for each in result.touched:
        if (each.domain, each.segment) == (adapter.domain, adapter.continues):
            evaluations |= {"exam_before": each.before, "exam_after": each.after}
    for name, evaluation in evaluations.items():
        if evaluation is not None:
            figures[f"{name}_loss"] = evaluation.loss
            figures[f"{name}_exact_match"] = evaluation.exact_match
    return figures
