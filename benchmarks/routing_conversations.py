"""Two-turn chats: which domain the second turn is answered by, under each margin that the first's domain stays within.

The first message and the second are test messages of clinc150; of each first message three chats are made: with another
message of its domain, with a short one that says nothing without the first, and with a message of another domain. The
choice between the two turns is the product's own. Knows no model.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from benchmarks import routing_texts as texts
from benchmarks.routing_bench import Bench
from benchmarks.routing_features import FeatureMap
from benchmarks.routing_figures import RouterSetting, learnt, served
from serving.conversation import conversed
from serving.engine import LoadedAdapter
from serving.scorer import Decision, Scorer
from serving.selection import Choice, by_content
from serving.served import ServedDomain, ServedManifest

MARGINS = (0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.8, 1.0)
NATS = 10.0
"""Of the head "lda", in place of the distance between two domains' scores."""
SHORT = (
    "and tomorrow?",
    "what about next week?",
    "why?",
    "how much is that?",
    "can you do that again?",
    "no, the other one",
    "yes please",
    "and the second one?",
    "how long will it take?",
    "is that all?",
    "thanks, anything else?",
    "what do you mean?",
    "make it shorter",
    "and in english?",
    "are you sure?",
    "tell me more",
    "when was that?",
    "who said so?",
    "do it now",
    "could you check once more?",
    "that is not what i asked",
    "what if i change my mind?",
    "the same for monday",
    "and for two people?",
)


def conversations(bench: Bench) -> Iterator[dict[str, object]]:
    """Shares of chats whose second turn is answered by the domain that it should be: by the second message alone, and
    by margin, under two heads with margins in their own units."""
    of, split = bench.shipped(), texts.split(bench.clinc, 0)
    rows = bench.rows(of, bench.clinc, split)
    labels = np.array(split.test_labels)
    chance = np.random.default_rng(0)
    same, other = (
        np.array([chance.choice(np.flatnonzero((labels == label) == alike)) for label in labels])
        for alike in (True, False)
    )
    short = chance.integers(len(SHORT), size=len(labels))
    for head, unit in (("ridge", 1.0), ("lda", NATS)):
        choice = RouterSetting(head=head)  # type: ignore[arg-type]
        scorer = Scorer(_Features(bench, of), served(learnt(rows, choice), rows, choice.kind))  # type: ignore[arg-type]
        manifest = _manifest(scorer)
        first = asyncio.run(by_content(manifest, [bench.clinc.texts[place] for place in split.test], _Scoring()))
        unclear = asyncio.run(by_content(manifest, SHORT, _Scoring()))
        chats = {
            "same_domain": ([first[place] for place in same], labels),
            "short": ([unclear[place] for place in short], labels),
            "another_domain": ([first[place] for place in other], labels[other]),
        }
        described = {**of.described(), **choice.described(len(texts.fixed()["general"])), "chats": len(labels)}
        for margin in (None, *(unit * step for step in MARGINS)):
            figures = {
                kind: round(float(np.mean(_answered(manifest, first, last, margin) == right)), 4)
                for kind, (last, right) in chats.items()
            }
            yield {**described, "margin": margin, "figures": figures}


class _Features:
    """An extractor over states that were made once."""

    def __init__(self, bench: Bench, of: FeatureMap) -> None:
        self.extract = bench.pooled.features(of)


class _Scoring:
    async def route(self, scorer: Scorer, texts: Sequence[str]) -> list[Decision]:
        return scorer.route(texts)


def _manifest(scorer: Scorer) -> ServedManifest:
    adapters = {name: LoadedAdapter(name, place, name, 0) for place, name in enumerate(scorer.columns)}
    return ServedManifest(1, None, scorer, {name: ServedDomain(each, {name: each}) for name, each in adapters.items()})


def _answered(
    manifest: ServedManifest, first: Sequence[Choice], last: Sequence[Choice], margin: float | None
) -> NDArray[np.str_]:
    turns = zip(first, last, strict=True)
    return np.array([(b if margin is None else conversed(manifest, a, b, margin)).domain for a, b in turns])
