"""From a request's `model` to an adapter: by content, by domain or by full version name, within one manifest.

Also how that is told: in headers, which are bounded, and in the body, which holds the whole. Knows no engine.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from serving.api import RouteDecision, RouteResult
from serving.engine import LoadedAdapter
from serving.openai_body import model_not_found
from serving.score_queue import ScoreQueue
from serving.scorer import Decision
from serving.served import AUTO, BASE, ServedManifest

STAMPED_PROMPTS = 16
"""Of so many prompts the headers tell one by one; proxies and clients refuse headers that grow with a batch."""


@dataclass(frozen=True)
class Choice:
    """Who answers one prompt. `adapter`: None is the base. `decision`: set where the content was scored."""

    adapter: LoadedAdapter | None
    decision: Decision | None = None

    @property
    def domain(self) -> str:
        return BASE if self.adapter is None else self.adapter.domain

    @property
    def version(self) -> str:
        return BASE if self.adapter is None else self.adapter.name


def by_name(served: ServedManifest, model: object) -> Choice | None:
    """The choice that `model` names, or None for `auto`. Raises Refused (404) for what this manifest does not serve."""
    if model is None or model == AUTO:
        return None
    if model == BASE:
        return Choice(None)
    if isinstance(model, str):
        adapter = served.by_domain.get(model) or served.by_name.get(model)
        if adapter is not None:
            return Choice(adapter)
    raise model_not_found(model)


async def by_content(served: ServedManifest, texts: Sequence[str], queue: ScoreQueue) -> list[Choice]:
    """One choice per rendered text; the base where the scorer abstains, nothing is published or the text is empty."""
    if served.scorer is None:
        return [Choice(None) for _ in texts]
    # Nothing has no features, but an engine may well go on from it.
    decisions = iter(await queue.route(served.scorer, [text for text in texts if text]))
    choices: list[Choice] = []
    for text in texts:
        decision = next(decisions) if text else None
        domain = decision.domain if decision is not None else None
        choices.append(Choice(None if domain is None else served.by_domain[domain], decision))
    return choices


def stamp(served: ServedManifest, choices: Sequence[Choice]) -> Mapping[str, str]:
    """The response headers that say who spoke: one value per prompt, comma-joined; `...` after the first 16."""
    headers = {
        "x-anabranch-domain": _listed([choice.domain for choice in choices]),
        "x-anabranch-adapter": _listed([choice.version for choice in choices]),
        "x-anabranch-manifest": str(served.number),
    }
    scores = [_score(choice) for choice in choices]
    if any(score is not None for score in scores):
        headers["x-anabranch-score"] = _listed(["" if score is None else f"{score:.6f}" for score in scores])
    return headers


def routing(served: ServedManifest, choices: Sequence[Choice]) -> RouteResult:
    """The whole of it: one decision per prompt, in order."""
    return RouteResult(
        manifest=served.number,
        decisions=tuple(_decision(index, choice) for index, choice in enumerate(choices)),
    )


def _listed(values: Sequence[str]) -> str:
    more = ["..."] if len(values) > STAMPED_PROMPTS else []
    return ",".join([*values[:STAMPED_PROMPTS], *more])


def _score(choice: Choice) -> float | None:
    """The top score; one that is no finite number is none, for neither JSON nor a header has a word for it."""
    if choice.decision is None or not math.isfinite(choice.decision.score):
        return None
    return choice.decision.score


def _decision(index: int, choice: Choice) -> RouteDecision:
    scores = choice.decision.scores if choice.decision is not None else {}
    return RouteDecision(
        index=index,
        domain=choice.domain,
        adapter=choice.version,
        score=_score(choice),
        scores={domain: own for domain, own in scores.items() if math.isfinite(own)},
    )
