"""From a request's `model` to an adapter: by content, by domain or by full version name, within one manifest."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from serving.engine import LoadedAdapter
from serving.openai_body import model_not_found
from serving.score_queue import ScoreQueue
from serving.scorer import Decision
from serving.served import AUTO, BASE, ServedManifest


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
    """One choice per rendered text; the base where the scorer abstains or nothing is published."""
    if served.scorer is None:
        return [Choice(None) for _ in texts]
    decisions = await queue.route(served.scorer, texts)
    return [Choice(None if d.domain is None else served.by_domain[d.domain], d) for d in decisions]


def stamp(served: ServedManifest, choices: Sequence[Choice]) -> Mapping[str, str]:
    """The response headers that say who spoke: one value per prompt, comma-joined."""
    headers = {
        "x-anabranch-domain": ",".join(choice.domain for choice in choices),
        "x-anabranch-adapter": ",".join(choice.version for choice in choices),
        "x-anabranch-manifest": str(served.number),
    }
    scores = [choice.decision.score for choice in choices if choice.decision is not None]
    if scores:
        headers["x-anabranch-score"] = ",".join(f"{score:.6f}" for score in scores)
    return headers
