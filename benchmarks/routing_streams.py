"""The routing study's harder streams: domains of one style, other writers, rare domains, shared instructions.

Each section gives rows for the result file.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import numpy as np

from benchmarks import routing_texts as texts
from benchmarks.routing_bench import Bench
from benchmarks.routing_features import FeatureMap
from benchmarks.routing_figures import RouterSetting, figures, learnt, served
from benchmarks.routing_sections import SMALL, Row
from learning.heads import BACKGROUND, HEADS
from learning.router_options import AbstentionKind
from learning.template import PromptTemplate

TWIN = "work"
"""The domain that is taught under two names."""


def same_style(bench: Bench) -> Iterator[Row]:
    """One domain's rows under two names, at random: two columns, or two labels of one column."""
    split = texts.split(bench.clinc, 0)
    rows = bench.rows(bench.shipped(SMALL), bench.clinc, split)
    chance = np.random.default_rng(0)

    def halved(labels: tuple[str, ...]) -> list[str]:
        return [f"{each}-{chance.integers(2)}" if each == TWIN else each for each in labels]

    twins = replace(
        rows,
        fit_labels=halved(split.fit_labels),
        held_labels=halved(split.held_labels),
        test_labels=halved(split.test_labels),
    )
    router = learnt(twins, RouterSetting())
    together: dict[str, tuple[str, ...]] = {
        name: (name,) for name in (*bench.clinc.domains, BACKGROUND) if name != TWIN
    }
    together[TWIN] = (f"{TWIN}-0", f"{TWIN}-1")
    kinds: tuple[AbstentionKind, ...] = ("top", "leverage", "both", "mahalanobis")
    for kind in kinds:
        for form, published, judged in (
            ("one label", served(learnt(rows, RouterSetting()), rows, kind), rows),
            ("two columns", served(router, twins, kind), twins),
            ("two labels of a column", served(router, rows, kind, together), rows),
        ):
            decided = published.decide(judged.test_ND)
            mine = np.array([label == TWIN for label in split.test_labels])
            chosen = np.array([str(domain) for domain in decided.chosen()])[mine]
            yield {
                "form": form,
                "abstention": kind,
                "kept_of_the_domain": round(float(decided.keeps_N[mine].mean()), 4),
                "kept_of_the_others": round(float(decided.keeps_N[~mine].mean()), 4),
                "to_either_name": round(float(np.mean([name.startswith(TWIN) for name in chosen])), 4),
                "figures": figures(published, judged),
            }


def mixed_split(bench: Bench) -> Iterator[Row]:
    """Judged rows from the same writers as those learnt from: what the threshold keeps then."""
    for mixed in (False, True):
        split = texts.split(bench.clinc, 0, mixed=mixed)
        rows = bench.rows(bench.shipped(SMALL), bench.clinc, split)
        yield {"mixed": mixed, "figures": figures(served(learnt(rows, RouterSetting()), rows, "both"), rows)}


def rare_domains(bench: Bench) -> Iterator[Row]:
    """Every other domain with a tenth of its rows."""
    split = texts.split(bench.clinc, 0)
    rows = bench.rows(bench.shipped(SMALL), bench.clinc, split)
    rare = bench.clinc.domains[::2]
    order = np.arange(len(split.fit)) % 10 == 0
    kept = np.array([label not in rare for label in split.fit_labels]) | order
    fewer = replace(
        rows,
        fit_ND=rows.fit_ND[kept],
        fit_labels=[label for label, keep in zip(split.fit_labels, kept, strict=True) if keep],
    )
    for head in HEADS:
        router = served(learnt(fewer, RouterSetting(head)), fewer, "top")
        found = figures(router, fewer)
        scores = router.decide(rows.test_ND)
        columns = [scores.domains.index(name) for name in router.domains]
        best = np.array(router.domains)[scores.scores_NK[:, columns].argmax(axis=1)]
        right = best == np.array(split.test_labels)
        few = np.isin(split.test_labels, rare)
        yield {
            "head": head,
            "routing_of_rare": round(float(right[few].mean()), 4),
            "routing_of_common": round(float(right[~few].mean()), 4),
            "figures": found,
        }


def small_domains(bench: Bench) -> Iterator[Row]:
    """Ten domains of 36 rows against all of the general text."""
    corpus = texts.corpus("clinc150", train=40, test=40)
    rows = bench.rows(bench.shipped(SMALL), corpus, texts.split(corpus, 0))
    for head in HEADS:
        yield {"head": head, "figures": figures(served(learnt(rows, RouterSetting(head)), rows, "both"), rows)}


def shared_instruction(bench: Bench) -> Iterator[Row]:
    """Tasks of olora14 that have their first line in common."""
    corpus = texts.corpus("olora14", texts.SHARING, 400, 150)
    split = texts.split(corpus, 0)
    for of in (
        FeatureMap(bench.stories, (0, 2, 3), ("mean", "max", "std"), SMALL),
        bench.shipped(SMALL),
    ):
        rows = bench.rows(of, corpus, split)
        for head in HEADS:
            found = figures(served(learnt(rows, RouterSetting(head)), rows, "both"), rows)
            yield {**of.described(), "head": head, "figures": found}


def chat_template(bench: Bench) -> Iterator[Row]:
    """The encoder's features of prompts in the base's chat template, against the message alone."""
    corpus = texts.corpus("clinc150", train=40, test=40)
    split = texts.split(corpus, 0)
    of = bench.shipped(SMALL)
    template = PromptTemplate(bench.smollm2.folder)
    bare = bench.rows(of, corpus, split)

    def render(prompts: tuple[str, ...]) -> list[str]:
        return [template.render([{"role": "user", "content": prompt}]) for prompt in prompts]

    fixed = texts.fixed()
    apply = bench.pooled.features(of, render(fixed["calibration"]))

    def rendered(prompts: tuple[str, ...]) -> np.ndarray:
        return apply(render(prompts))

    all_ND = rendered(corpus.texts)
    within = replace(
        bare,
        fit_ND=all_ND[split.fit],
        held_ND=all_ND[split.held],
        test_ND=all_ND[split.test],
        general_ND=rendered(fixed["general"]),
        outer={name: rendered(fixed[name]) for name in bare.outer},
    )
    for form, rows in (("message alone", bare), ("in the base's template", within)):
        yield {"prompt": form, "figures": figures(served(learnt(rows, RouterSetting()), rows, "both"), rows)}
