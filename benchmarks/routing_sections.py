"""The comparisons of the routing study; each varies one thing about the configuration that presets ship.

What is chosen is chosen by figures of held-out rows: routing, and how well those of known domains are told from those
of domains that were left out (`held_out_novelty`). Each section gives rows for the result file.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

from benchmarks import routing_texts as texts
from benchmarks.routing_bench import FEW, SEEDS, Bench, matched, measured, novelty, over_seeds
from benchmarks.routing_features import FeatureMap, Model
from benchmarks.routing_figures import RouterSetting, checked, figures, learnt, served
from learning.abstention import ABSTENTION_KINDS
from learning.feature_options import Pooling
from learning.heads import HEADS

Row = dict[str, Any]
SMALL = 1024
"""Expansion where many configurations are compared."""


def features(bench: Bench) -> Iterator[Row]:
    """Models, depths and poolings; 180 rows a domain."""
    corpus = texts.corpus("clinc150", train=200, test=100)
    compared: list[tuple[Model, tuple[int, ...], tuple[Pooling, ...]]] = [
        (bench.stories, (2,), ("mean",)),
        (bench.stories, (0, 2, 3), ("mean", "max", "std")),
        (bench.smollm2, (10,), ("mean",)),
        (bench.smollm2, (0, 4, 8), ("mean",)),
        (bench.smollm2, (4, 8, 12), ("mean",)),
        (bench.smollm2, (4, 8, 12), ("mean", "max", "std")),
        (bench.minilm, (6,), ("mean",)),
        (bench.minilm, (4, 5, 6), ("mean",)),
        (bench.minilm, (4, 5, 6), ("mean", "max", "std")),
    ]
    split = texts.split(corpus, 0)
    for model, depths, poolings in compared:
        of = FeatureMap(model, depths, poolings, SMALL)
        rows = bench.rows(of, corpus, split)
        for head in HEADS[::2]:
            choice = RouterSetting(head)
            found = figures(served(learnt(rows, choice), rows, choice.kind), rows, matched(corpus, split))
            yield {**of.described(), "head": head, "figures": found}


def small_base(bench: Bench) -> Iterator[Row]:
    """A base of 260,000 parameters that makes its own features; all rows."""
    of = FeatureMap(bench.stories, (0, 2, 3), ("mean", "max", "std"), 2048)
    split = texts.split(bench.clinc, 0)
    rows = bench.rows(of, bench.clinc, split)
    for head in HEADS[::2]:
        for count in (0, len(rows.general_ND)):
            choice = RouterSetting(head, texts=count)
            router = learnt(rows, choice)
            for kind in ABSTENTION_KINDS:
                found = figures(served(router, rows, kind), rows, matched(bench.clinc, split))
                yield {**of.described(), **replace(choice, kind=kind).described(count), "figures": found}


def layers(bench: Bench) -> Iterator[Row]:
    """Which depths of the encoder."""
    for depths in ((6,), (5, 6), (4, 6), (4, 5, 6), (2, 4, 6), (0, 4, 5, 6)):
        of = replace(bench.shipped(SMALL), depths=depths)
        found = measured(bench, of, RouterSetting())
        yield {**of.described(), "held_out_novelty": novelty(bench, of, RouterSetting()), "figures": found}


def ridges(bench: Bench) -> Iterator[Row]:
    """How strong a penalty."""
    for ridge in (15.0, 50.0, 150.0, 500.0, 1500.0):
        choice = RouterSetting(ridge=ridge)
        found = measured(bench, bench.shipped(SMALL), choice)
        yield {"ridge": ridge, "held_out_novelty": novelty(bench, bench.shipped(SMALL), choice), "figures": found}


def scalings(bench: Bench) -> Iterator[Row]:
    """Whose mean and scale standardise: those of the text of ours, or of what the stream begins with."""
    split = texts.split(bench.clinc, 0)
    for of in (FeatureMap(bench.stories, (0, 2, 3), ("mean", "max", "std"), 2048), bench.shipped(SMALL)):
        for first in (0, 512, 256, 2):
            rows = bench.rows(of, bench.clinc, split, scaling=bench.clinc.texts[:first])
            found = figures(served(learnt(rows, RouterSetting()), rows, "top"), rows)
            yield {**of.described(), "scaled_by": f"first {first}" if first else "calibration text", "figures": found}


def widths(bench: Bench) -> Iterator[Row]:
    """Narrower expansions than the shipped one; 0 is the pooled states themselves."""
    for width in (0, 512, 1024, 2048):
        runs = [measured(bench, bench.shipped(width, seed), RouterSetting(), seed) for seed in SEEDS]
        yield {"expansion": width, **over_seeds(runs)}


def heads_and_abstention(bench: Bench) -> Iterator[Row]:
    """Every head with every rule, with and without the background class."""
    of, split = bench.shipped(SMALL), texts.split(bench.clinc, 0)
    rows = bench.rows(of, bench.clinc, split)
    for head in HEADS:
        for count in (0, len(rows.general_ND)):
            choice = RouterSetting(head, texts=count)
            router = learnt(rows, choice)
            for kind in ABSTENTION_KINDS:
                found = figures(served(router, rows, kind), rows, matched(bench.clinc, split))
                yield {**replace(choice, kind=kind).described(count), "figures": found}


def backgrounds(bench: Bench) -> Iterator[Row]:
    """How many general texts, counted how often; another text; the same as a check alone."""
    of = bench.shipped(SMALL)
    for count, times in ((0, 1), (45, 1), (91, 1), (182, 1), (364, 1), (364, 3)):
        choice = RouterSetting(texts=count, times=times)
        runs = [measured(bench, replace(of, seed=seed), choice, seed) for seed in SEEDS]
        yield {"text": "general", "as": "class", "texts": count, "times": times, **over_seeds(runs)}
    for text in ("calibration", "general"):
        rows = bench.rows(of, bench.clinc, texts.split(bench.clinc, 0), text)
        if text == "calibration":
            yield {
                "text": text,
                "as": "class",
                "figures": figures(served(learnt(rows, RouterSetting()), rows, "both"), rows),
            }
        without = served(learnt(rows, RouterSetting(texts=0)), rows, "both")
        yield {"text": text, "as": "check", "figures": checked(without, rows)}


def two_domains(bench: Bench) -> Iterator[Row]:
    """A young deployment: two domains published."""
    of, split = bench.shipped(2048), texts.split(bench.clinc, 0, FEW)
    rows = bench.rows(of, bench.clinc, split)
    for count in (0, len(rows.general_ND)):
        choice = RouterSetting(texts=count)
        router = learnt(rows, choice)
        for kind in ABSTENTION_KINDS:
            row = replace(choice, kind=kind).described(count)
            published = served(router, rows, kind)
            yield {**row, "figures": figures(published, rows)}
            if not count:
                yield {**row, "background": "check", "figures": checked(published, rows)}


def shipped(bench: Bench) -> Iterator[Row]:
    """The preset's configuration, over seeds of split and expansion; then two domains, question by kind."""
    for domains in ((), FEW):
        runs = [measured(bench, bench.shipped(seed=seed), RouterSetting(), seed, domains) for seed in SEEDS]
        row = {"domains": list(domains) or list(bench.clinc.domains), **bench.shipped().described()}
        yield {**row, **RouterSetting().described(len(texts.fixed()["general"])), **over_seeds(runs)}
    split = texts.split(bench.clinc, 0, FEW)
    rows = bench.rows(bench.shipped(), bench.clinc, split)
    decided = served(learnt(rows, RouterSetting()), rows, "both").decide(rows.outer["questions"])
    asked: dict[str, list[bool]] = {}
    for kind, kept in zip(texts.question_kinds(), decided.keeps_N, strict=True):
        asked.setdefault(kind, []).append(not kept)
    yield {"domains": list(FEW), "questions_to_base": {k: f"{sum(v)} of {len(v)}" for k, v in asked.items()}}
