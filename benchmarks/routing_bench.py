"""What the sections of the routing study share: models, the configuration that all vary, rows, means over seeds.

Knows no single comparison.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np

from benchmarks import routing_texts as texts
from benchmarks.routing_features import FeatureMap, Model, PooledTexts
from benchmarks.routing_figures import RouterSetting, Rows, figures, learnt, served
from benchmarks.routing_texts import Corpus, Places, Split
from learning.metrics import auroc
from learning.symmetric import Float64

SEEDS = (0, 1, 2)
FEW = ("travel", "work")
"""The two domains of a young deployment."""
Figures = dict[str, float]


@dataclass
class Bench:
    """The models, and the texts' features, of which the last map's are kept."""

    pooled: PooledTexts
    minilm: Model
    smollm2: Model
    stories: Model
    _kept: dict[tuple[FeatureMap, str, tuple[str, ...]], dict[str, Float64]] = field(default_factory=dict)

    @cached_property
    def clinc(self) -> Corpus:
        """All ten domains, all rows."""
        return texts.corpus("clinc150")

    def shipped(self, width: int = 4096, seed: int = 0) -> FeatureMap:
        """The features that the preset takes, at some width."""
        return FeatureMap(self.minilm, (4, 5, 6), ("mean",), width, seed)

    def features(self, of: FeatureMap, corpus: Corpus, scaling: tuple[str, ...] = ()) -> dict[str, Float64]:
        """Features of a corpus and of texts that are no domain's; `scaling` or the calibration text sets the scale."""
        key = of, corpus.name, scaling
        if key not in self._kept:
            apply = self.pooled.features(of, scaling)
            fixed = {name: apply(part) for name, part in texts.fixed().items()}
            self._kept = {key: {**fixed, "corpus": apply(corpus.texts)}}
        return self._kept[key]

    def rows(
        self,
        of: FeatureMap,
        corpus: Corpus,
        split: Split,
        background: str = "general",
        scaling: tuple[str, ...] = (),
    ) -> Rows:
        """One split's rows; `background` names the text that stands for no domain."""
        found = self.features(of, corpus, scaling)
        all_ND = found["corpus"]
        return Rows(
            all_ND[split.fit],
            split.fit_labels,
            all_ND[split.held],
            split.held_labels,
            all_ND[split.test],
            split.test_labels,
            found[background],
            {name: found[name] for name in ("outside", "questions")},
        )


def measured(
    bench: Bench, of: FeatureMap, choice: RouterSetting, seed: int = 0, domains: Sequence[str] = ()
) -> Figures:
    """Figures of one configuration on clinc150, `domains` of it or all."""
    split = texts.split(bench.clinc, seed, domains)
    rows = bench.rows(of, bench.clinc, split)
    return figures(served(learnt(rows, choice), rows, choice.kind), rows, matched(bench.clinc, split))


def matched(corpus: Corpus, split: Split) -> tuple[Places, Places]:
    """Places of test rows and of messages of no domain that are alike in length."""
    return texts.length_matched([corpus.texts[place] for place in split.test], texts.outside())


def novelty(bench: Bench, of: FeatureMap, choice: RouterSetting, seed: int = 0) -> float:
    """AUROC of held-out rows of known domains against those of two that are left out, mean over five such pairs."""
    names = bench.clinc.domains
    whole = texts.split(bench.clinc, seed)
    rows = bench.rows(of, bench.clinc, whole)
    found = []
    for first in range(0, len(names), 2):
        unknown = names[first : first + 2]
        known = np.array([label not in unknown for label in whole.fit_labels])
        inside = np.array([label not in unknown for label in whole.held_labels])
        part = Rows(
            rows.fit_ND[known],
            [label for label in whole.fit_labels if label not in unknown],
            rows.held_ND[inside],
            [label for label in whole.held_labels if label not in unknown],
            rows.test_ND[:0],
            (),
            rows.general_ND,
            {},
        )
        router = served(learnt(part, choice), part, choice.kind)
        found.append(auroc(router.decide(part.held_ND).confidence_N, router.decide(rows.held_ND[~inside]).confidence_N))
    return round(float(np.mean(found)), 4)


def over_seeds(runs: Sequence[Mapping[str, float]]) -> dict[str, object]:
    """Mean and standard deviation of each figure over runs."""
    keys = runs[0].keys()
    return {
        "runs": len(runs),
        "mean": {key: round(float(np.mean([run[key] for run in runs])), 4) for key in keys},
        "sd": {key: round(float(np.std([run[key] for run in runs], ddof=1)), 4) for key in keys} if runs[1:] else {},
    }
