"""From a request's `model` to an adapter, within one manifest: by content among all domains, by content among the
segments of the domain that is named, or by full version name.

Also how that is told: in headers, which are bounded, and in the body, which holds the whole. Knows no engine.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from learning.errors import LearningError
from serving.abstained import NOTHING_TO_CHOOSE, UNREADABLE, Abstained
from serving.api import MixedPart, RouteDecision, RouteResult, TurnDecision
from serving.caller import is_visible
from serving.engine import LoadedAdapter
from serving.mixtures import MixedAdapters, is_mixture, named_parts, quarters
from serving.openai_body import bad_request, model_not_found
from serving.scorer import Decision, Scorer, Scoring
from serving.served import AUTO, BASE, ServedDomain, ServedManifest
from serving.sessions import Answered

STAMPED_PROMPTS = 16
"""Of so many prompts the headers tell one by one; proxies and clients refuse headers that grow with a batch."""


@dataclass(frozen=True)
class Choice:
    """Who answers one prompt.

    `adapter`: None is the base. `score`: the highest of those that competed, None where nothing was scored. `decision`:
    set where all domains competed. `abstained`: set where that left the prompt to the base. `turns`: for a chat of two
    or more, what its first, or its session so far, and its last one ask for; `lead`: by how much the last one's own
    domain scores higher in it than the first's. `mixture`: set where several answer as one; `adapter` is their
    composite then, once there is one.
    """

    adapter: LoadedAdapter | None
    score: float | None = None
    decision: Decision | None = None
    abstained: Abstained | None = None
    turns: tuple[Choice, ...] = ()
    lead: float | None = None
    mixture: MixedAdapters | None = None

    @property
    def domain(self) -> str:
        if self.mixture is not None:
            return self.mixture.domain
        return BASE if self.adapter is None else self.adapter.domain

    @property
    def version(self) -> str:
        if self.mixture is not None:
            return self.mixture.name
        return BASE if self.adapter is None else self.adapter.name

    @property
    def answerers(self) -> list[tuple[str, str]]:
        """Domain and version of each adapter that has a part in it, or of the base."""
        if self.mixture is not None:
            return [(adapter.domain, adapter.name) for adapter, _ in self.mixture.parts]
        return [(self.domain, self.version)]


@dataclass(frozen=True)
class Named:
    """Domains and versions that a request names, with their weights; of some the segment has to be scored first."""

    parts: tuple[tuple[ServedDomain | LoadedAdapter, int], ...]

    @property
    def is_alone(self) -> bool:
        """Whether one adapter answers as it is."""
        return len(self.parts) == 1

    def newest(self) -> Choice:
        """The choice by the newest segments."""
        return self.choice(None)

    def choice(self, decision: Decision | None) -> Choice:
        """The choice among each domain's segments; the newest where nothing was scored. Raises Refused."""
        chosen = [
            (Choice(one) if isinstance(one, LoadedAdapter) else of_domain(one, decision), weight)
            for one, weight in self.parts
        ]
        if self.is_alone:
            return chosen[0][0]
        return Choice(
            None, mixture=MixedAdapters.of([(each.adapter, weight) for each, weight in chosen if each.adapter])
        )


def by_name(served: ServedManifest, model: object) -> Choice | Named | None:
    """Who answers for `model`; who is named, where segments have to be scored first; or None for `auto`.

    Raises Refused (404) for what this manifest does not serve, and (400) for what is no mixture.
    """
    if model is None or model == AUTO:
        return None
    if model == BASE:
        return Choice(None)
    if isinstance(model, str):
        parts = named_parts(model) if is_mixture(model) else [(model, 1)]
        named = Named(tuple((_one(served, name), weight) for name, weight in parts))
        needs_scores = any(isinstance(one, ServedDomain) and len(one.by_column) > 1 for one, _ in named.parts)
        return named if needs_scores and served.scorer is not None else named.newest()
    raise model_not_found(model)


def _one(served: ServedManifest, name: str) -> ServedDomain | LoadedAdapter:
    if name in (AUTO, BASE):
        raise bad_request(f"a mixture is of domains and versions; {name} is none", "model")
    if (found := served.by_domain.get(name) or served.by_name.get(name)) is None:
        raise model_not_found(name)
    return found


async def by_content(
    served: ServedManifest, texts: Sequence[str], scoring: Scoring, *, each: bool = False
) -> list[Choice]:
    """One choice per rendered text among all domains; the base where the scorer abstains, nothing is published or the
    text is empty. With `each` also where a text can't be scored; else that raises `LearningError`."""
    if served.scorer is None:
        return [Choice(None, abstained=NOTHING_TO_CHOOSE) for _ in texts]
    decide = _decisions_each if each else _decisions
    return [_of_all(served, decision) for decision in await decide(served.scorer, texts, scoring)]


async def by_segment(served: ServedManifest, named: Named, texts: Sequence[str], scoring: Scoring) -> list[Choice]:
    """One choice per rendered text among the segments of what is named; the newest where a text can't be scored."""
    return [named.choice(decision) for decision in await _decisions_each(served.scorer, texts, scoring)]


def beside(served: ServedManifest, choice: Choice, most: int, scale: float) -> Choice:
    """The choice by content with those that score nearly as high beside it, `most` in all; `scale`: by how much less
    one scores that counts for 1/e of it. Only domains that whoever asks may be told of."""
    own = _number(choice.score)
    if most == 1 or choice.adapter is None or choice.decision is None or own is None:
        return choice
    scores = choice.decision.scores
    others = [
        (scores[best], domain.by_column[best])
        for name, domain in served.by_domain.items()
        if name != choice.domain and is_visible(name) and (best := choice.decision.best(domain.by_column)) is not None
    ]
    near = sorted((other for other in others if math.isfinite(other[0])), key=lambda other: -other[0])[: most - 1]
    units = quarters([own, *(score for score, _ in near)], scale)
    adapters = [choice.adapter, *(adapter for _, adapter in near)]
    parts = [(adapter, share) for adapter, share in zip(adapters, units, strict=True) if share]
    return choice if len(parts) == 1 else replace(choice, adapter=None, mixture=MixedAdapters.of(parts))


def kept_by(before: Answered | None, domain: ServedDomain, decision: Decision | None = None) -> Choice | None:
    """The choice of a session's version, while it serves in this domain; with the decision's score of it."""
    for name, adapter in domain.by_column.items():
        if before is not None and before.adapter == adapter.name:
            return Choice(adapter, None if decision is None else decision.scores.get(name), decision)
    return None


async def _decisions(scorer: Scorer, texts: Sequence[str], scoring: Scoring) -> list[Decision | None]:
    """One decision per text; None for an empty one: nothing has no features, but an engine may well go on from it."""
    found = iter(await scoring.route(scorer, [text for text in texts if text]))
    return [next(found) if text else None for text in texts]


async def _decisions_each(scorer: Scorer | None, texts: Sequence[str], scoring: Scoring) -> list[Decision | None]:
    """The same, and None also for each text that the features can't be made of."""
    if scorer is None:
        return [None] * len(texts)
    try:
        return await _decisions(scorer, texts, scoring)
    except LearningError:
        if len(texts) == 1:
            return [None]
        return [found for text in texts for found in await _decisions_each(scorer, [text], scoring)]


def _of_all(served: ServedManifest, decision: Decision | None) -> Choice:
    if decision is None:
        return Choice(None, abstained=UNREADABLE)
    best = decision.best(served.by_column)
    score = None if best is None else decision.scores[best]
    if best is None or decision.abstained is not None:
        return Choice(None, score, decision, decision.abstained)
    return Choice(served.by_column[best], score, decision)


def of_domain(domain: ServedDomain, decision: Decision | None) -> Choice:
    """The choice among one domain's segments; its newest version where nothing was scored."""
    best = None if decision is None else decision.best(domain.by_column)
    if decision is None or best is None:
        return Choice(domain.newest)
    return Choice(domain.by_column[best], decision.scores[best])


def stamp(served: ServedManifest, choices: Sequence[Choice]) -> Mapping[str, str]:
    """The response headers that say who spoke: one value per prompt, comma-joined; `...` after the first 16."""
    headers = {
        "x-anabranch-domain": _listed([choice.domain for choice in choices]),
        "x-anabranch-adapter": _listed([choice.version for choice in choices]),
        "x-anabranch-manifest": str(served.number),
    }
    if base := _base(served):
        headers["x-anabranch-base"] = base[:8]
    scores = [_number(choice.score) for choice in choices]
    if any(score is not None for score in scores):
        headers["x-anabranch-score"] = _listed(["" if score is None else f"{score:.6f}" for score in scores])
    if any(choice.abstained for choice in choices):
        headers["x-anabranch-abstained"] = _listed([c.abstained.token if c.abstained else "" for c in choices])
    return headers


def routing(served: ServedManifest, choices: Sequence[Choice]) -> RouteResult:
    """The whole of it: one decision per prompt, in order."""
    return RouteResult(
        manifest=served.number,
        base=_base(served),
        decisions=tuple(_decision(served, index, choice) for index, choice in enumerate(choices)),
    )


def _base(served: ServedManifest) -> str:
    return served.manifest.base.delta if served.manifest else ""


def _listed(values: Sequence[str]) -> str:
    more = ["..."] if len(values) > STAMPED_PROMPTS else []
    return ",".join([*values[:STAMPED_PROMPTS], *more])


def _number(value: float | None) -> float | None:
    """What is no finite number is none, for neither JSON nor a header has a word for it."""
    return value if value is not None and math.isfinite(value) else None


def _decision(served: ServedManifest, index: int, choice: Choice) -> RouteDecision:
    decision, parts = choice.decision, choice.mixture.parts if choice.mixture else ()
    return RouteDecision(
        index=index,
        domain=choice.domain,
        adapter=choice.version,
        score=_number(choice.score),
        scores={} if decision is None else _by_domain(served, decision),
        confidence=None if decision is None else _number(decision.confidence),
        threshold=None if decision is None else _number(decision.threshold),
        abstained=None if choice.abstained is None else choice.abstained.words,
        turns=tuple(_turn(turn) for turn in choice.turns if is_visible(turn.domain)),
        lead=_number(choice.lead),
        parts=tuple(MixedPart(domain=adapter.domain, adapter=adapter.name, weight=weight) for adapter, weight in parts),
        nearest=bool(choice.mixture and choice.adapter and choice.adapter.rank < choice.mixture.rank),
    )


def _turn(choice: Choice) -> TurnDecision:
    return TurnDecision(
        domain=choice.domain,
        score=_number(choice.score),
        confidence=None if choice.decision is None else _number(choice.decision.confidence),
        abstained=None if choice.abstained is None else choice.abstained.words,
    )


def score_of(served: ServedManifest, name: str, decision: Decision) -> float | None:
    """What a domain scores, which is what its best segment does; None where that is no number."""
    best = decision.best(served.by_domain[name].by_column) if name in served.by_domain else None
    return None if best is None else decision.scores[best]


def _by_domain(served: ServedManifest, decision: Decision) -> dict[str, float]:
    """Each domain's score, which is that of its best segment."""
    scores = {name: score_of(served, name, decision) for name in served.by_domain}
    return {name: score for name, score in scores.items() if score is not None and math.isfinite(score)}
