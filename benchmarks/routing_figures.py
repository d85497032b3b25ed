"""What one router does with in-domain rows, with messages of no domain and with general questions.

The router, its heads and its abstention are the product's own. Thresholds come from held-out rows alone; rows that are
judged take no part in any choice. Knows no model and no texts.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from benchmarks.routing_texts import Places
from learning.abstention import Abstention, lower_quantile
from learning.heads import BACKGROUND
from learning.metrics import auroc
from learning.rls import StreamingRidge
from learning.router_options import AbstentionKind, Head
from learning.served_router import Decisions, ServedRouter
from learning.symmetric import Float64

KEEP = 0.95


@dataclass(frozen=True)
class RouterSetting:
    """What is decided about a router beside its features."""

    head: Head = "ridge"
    ridge: float = 150.0
    kind: AbstentionKind = "both"
    texts: int = 10**6
    """General texts of the background class, at most; 0 for none."""
    times: int = 1
    """How often each of them is counted."""

    def described(self, texts: int) -> dict[str, object]:
        """As it goes into the result file; `texts` are those that there are."""
        background = {"texts": min(self.texts, texts), "times": self.times}
        return {"head": self.head, "ridge": self.ridge, "abstention": self.kind, "background": background}


@dataclass(frozen=True, eq=False)
class Rows:
    """Features of one study: those learnt, those held out, those judged and those from outside, by name."""

    fit_ND: Float64  # noqa: N815 - shape suffix
    fit_labels: Sequence[str]
    held_ND: Float64  # noqa: N815 - shape suffix
    held_labels: Sequence[str]
    test_ND: Float64  # noqa: N815 - shape suffix
    test_labels: Sequence[str]
    general_ND: Float64  # noqa: N815 - shape suffix
    outer: Mapping[str, Float64]


def learnt(rows: Rows, choice: RouterSetting) -> StreamingRidge:
    """The router over the fitted rows and the background's."""
    router = StreamingRidge(rows.fit_ND.shape[1], choice.ridge, head=choice.head)
    router.observe(rows.fit_ND, list(rows.fit_labels))
    background_ND = _spread(rows.general_ND, choice.texts)
    for _ in range(choice.times if len(background_ND) else 0):
        router.observe(background_ND, [BACKGROUND] * len(background_ND))
    return router


def served(
    router: StreamingRidge, rows: Rows, kind: AbstentionKind, columns: Mapping[str, Sequence[str]] | None = None
) -> ServedRouter:
    """The router as it is published, calibrated on the held-out rows."""
    weights = router.weights(columns)
    factor = router.factor() if kind in ("leverage", "both") else None
    distance = router.distance(columns) if kind == "mahalanobis" else None
    rule = Abstention.calibrated(kind, KEEP, weights, rows.held_ND, factor=factor, distance=distance)
    return ServedRouter(weights, rule)


def figures(router: ServedRouter, rows: Rows, matched: tuple[Places, Places] | None = None) -> dict[str, float]:
    """Shares, and areas under the curve of test rows against those outside.

    `matched` are places of test rows and of rows outside that are alike in length.
    """
    test = router.decide(rows.test_ND)
    held = router.decide(rows.held_ND)
    outer = {name: router.decide(part_ND) for name, part_ND in rows.outer.items()}
    strict = lower_quantile(test.confidence_N, 1.0 - KEEP)
    found = {
        "routing_held_out": _right(held, rows.held_labels),
        "routing": _right(test, rows.test_labels),
        "kept": float(test.keeps_N.mean()),
        "background_wins": float(test.background_N.mean()),
    }
    for name, decided in outer.items():
        found[f"{name}_auroc"] = auroc(test.confidence_N, decided.confidence_N)
        found[f"{name}_rejected"] = float((~decided.keeps_N).mean())
        found[f"{name}_rejected_at_test_keep"] = float((decided.confidence_N < strict).mean())
    if matched is not None and "outside" in outer:
        inside, outside = test.confidence_N[matched[0]], outer["outside"].confidence_N[matched[1]]
        found["outside_auroc_length_matched"] = auroc(inside, outside)
        found["outside_rejected_length_matched"] = float((~outer["outside"].keeps_N[matched[1]]).mean())
        found["kept_length_matched"] = float(test.keeps_N[matched[0]].mean())
    return {name: round(value, 4) for name, value in found.items()}


def checked(router: ServedRouter, rows: Rows) -> dict[str, float]:
    """The same with general text as a check alone: the threshold is raised until it refuses `KEEP` of that text."""
    general = router.decide(rows.general_ND).confidence_N
    threshold = max(router.abstention.threshold, float(np.quantile(general, KEEP)))
    found = {"kept": float((router.decide(rows.test_ND).confidence_N >= threshold).mean())}
    for name, part_ND in rows.outer.items():
        found[f"{name}_rejected"] = float((router.decide(part_ND).confidence_N < threshold).mean())
    return {name: round(value, 4) for name, value in found.items()}


def _right(decided: Decisions, labels: Sequence[str]) -> float:
    """Share of rows whose largest score is that of their own domain, whatever is kept."""
    places = [place for place, name in enumerate(decided.domains) if name != BACKGROUND]
    best = decided.scores_NK[:, places].argmax(axis=1)
    return float(np.mean([decided.domains[places[each]] == label for each, label in zip(best, labels, strict=True)]))


def _spread(rows_ND: Float64, count: int) -> Float64:
    """`count` rows from all over, or all of them."""
    if count >= len(rows_ND):
        return rows_ND
    return rows_ND[np.linspace(0, len(rows_ND), count, endpoint=False).astype(np.int64)]
