"""What pooling and expansion cost at the width of a large model, and what the cheap expansion does to routing.

Two claims, each against the plain form that is kept here as the reference (states copied to the host as float64, a
dense float64 projection): peak memory of the process and seconds a row at width 3,584, three layers, three poolings and
8,192 features, in processes of their own, taken in turn; and routing accuracy on the ten clinc150 domains over several
seeds of the expansion. The second needs the clinc150 data and the stories260K model in ../shared. Run it with
`python -m benchmarks.features`.
"""

from __future__ import annotations

import argparse
import json
import math
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch

from benchmarks.hardware import describe
from learning.expansion import RandomExpansion
from learning.feature_options import FeatureOptions, Pooling
from learning.features import FeatureExtractor
from learning.metrics import auroc, routing_accuracy
from learning.pooling import pool
from learning.rls import StreamingRidge
from learning.symmetric import Float64
from learning.template import PromptTemplate

SHARED = Path(__file__).parents[2] / "shared"
RESULT = Path(__file__).parent / "results" / "features.json"
TEMPLATE = "{{ bos_token }}{{ messages[-1]['content'] }}{{ '\\n' }}"
POOLINGS: tuple[Pooling, ...] = ("mean", "max", "std")
WIDTH, LAYERS, FEATURES, ROWS, TOKENS = 3584, 3, 8192, 16, 32
FORMS = ("dense", "dealt")


class Expansion(Protocol):
    """Maps standardised rows to features."""

    def apply(self, features_NP: Float64, /) -> Float64:
        """Features float64[n, d]."""


class DenseExpansion:
    """The reference: relu(z P + b) with a dense float64 P, uniform in +-sqrt(3/p)."""

    def __init__(self, inputs: int, width: int, seed: int) -> None:
        bits = np.random.PCG64(seed)
        self._projection_PE = _uniform(bits, inputs * width).reshape(inputs, width) * math.sqrt(3.0 / inputs)
        self._bias_E = _uniform(bits, width)

    def apply(self, features_NP: Float64) -> Float64:
        """Features float64[n, width]."""
        return np.maximum(features_NP @ self._projection_PE + self._bias_E, 0.0)


def _uniform(bits: np.random.PCG64, count: int) -> Float64:
    uniform: Float64 = (bits.random_raw(count) >> np.uint64(11)).astype(np.float64) * 2.0**-52 - 1.0
    return uniform


EXPANSIONS: dict[str, Callable[[int, int, int], Expansion]] = {"dense": DenseExpansion, "dealt": RandomExpansion}


def main() -> None:
    """Run the benchmark and write its result, or, as a child, measure one form."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--measure", choices=FORMS, help="measure one form in this process and print it")
    parser.add_argument("--repeats", type=int, default=3, help="processes of each form")
    parser.add_argument("--seeds", type=int, default=4, help="expansions that routing is measured with")
    parser.add_argument("--out", type=Path, default=RESULT)
    options = parser.parse_args()
    if options.measure:
        print(json.dumps(_measured(options.measure)))
        return
    result = {
        "cost": _costs(options.repeats),
        "routing": _routing(options.seeds),
        "hardware": describe(("torch", "numpy", "scipy", "transformers")),
    }
    options.out.parent.mkdir(exist_ok=True)
    options.out.write_text(json.dumps(result, indent=1) + "\n")
    print(json.dumps(result, indent=1))


# -- memory and time ---------------------------------------------------------------------------------------------------


def _costs(repeats: int) -> dict[str, Any]:
    taken: dict[str, list[dict[str, float]]] = {form: [] for form in FORMS}
    for _ in range(repeats):
        for form in FORMS:
            command = [sys.executable, "-m", "benchmarks.features", "--measure", form]
            done = subprocess.run(command, capture_output=True, text=True, check=True)
            taken[form].append(json.loads(done.stdout))
    keys = taken[FORMS[0]][0].keys()
    best = {form: {key: min(run[key] for run in runs) for key in keys} for form, runs in taken.items()}
    return {
        "width": WIDTH,
        "layers": LAYERS,
        "poolings": POOLINGS,
        "features": FEATURES,
        "rows": ROWS,
        "tokens": TOKENS,
        "smallest_of": repeats,
        **best,
        "ratio": {key: round(best["dealt"][key] / best["dense"][key], 4) for key in keys},
        "runs": taken,
    }


def _measured(form: str) -> dict[str, float]:
    """Peak and added memory in MiB, and CPU seconds: to make the expansion, and a row to pool, to expand, in all."""
    generator = torch.Generator().manual_seed(0)
    states = [torch.randn(ROWS, TOKENS, WIDTH, generator=generator).to(torch.bfloat16) for _ in range(LAYERS)]
    lengths = torch.randint(TOKENS // 2, TOKENS + 1, (ROWS,), generator=generator)
    before = _peak_mib()
    began = time.process_time()
    expansion = EXPANSIONS[form](WIDTH * LAYERS * len(POOLINGS), FEATURES, 0)
    made = time.process_time() - began
    pooling = _plain_pooled if form == "dense" else _pooled
    pool_s, expand_s = [], []
    for _ in range(3):
        began = time.process_time()
        pooled = pooling(states, lengths)
        between = time.process_time()
        expansion.apply(pooled)
        pool_s.append(between - began)
        expand_s.append(time.process_time() - between)
    return {
        "peak_mib": round(_peak_mib(), 1),
        "added_mib": round(_peak_mib() - before, 1),
        "seconds_to_make": round(made, 4),
        "pooling_seconds_a_row": round(min(pool_s) / ROWS, 6),
        "expansion_seconds_a_row": round(min(expand_s) / ROWS, 6),
        "seconds_a_row": round((min(pool_s) + min(expand_s)) / ROWS, 6),
    }


def _peak_mib() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def _pooled(states: list[torch.Tensor], lengths_B: torch.Tensor) -> Float64:
    pooled = torch.cat([pool(states_BTH, lengths_B, POOLINGS) for states_BTH in states], dim=1)
    on_host: Float64 = pooled.to("cpu", torch.float64).numpy()
    return on_host


def _plain_pooled(states: list[torch.Tensor], lengths_B: torch.Tensor) -> Float64:
    parts = []
    for states_BTH in states:
        exact_BTH = states_BTH.to("cpu", torch.float64)
        mask_BT = torch.arange(TOKENS) < lengths_B[:, None]
        mean_BH = (exact_BTH * mask_BT[:, :, None]).sum(dim=1) / lengths_B[:, None]
        highest_BH = exact_BTH.masked_fill(~mask_BT[:, :, None], -torch.inf).amax(dim=1)
        centred_BTH = (exact_BTH - mean_BH[:, None, :]) * mask_BT[:, :, None]
        parts += [mean_BH, highest_BH, (centred_BTH.pow(2).sum(dim=1) / lengths_B[:, None]).sqrt()]
    pooled: Float64 = torch.cat(parts, dim=1).numpy()
    return pooled


# -- routing -----------------------------------------------------------------------------------------------------------


def _routing(seeds: int) -> dict[str, Any]:
    data, model = SHARED / "data" / "clinc150", SHARED / "models" / "stories260K"
    if not data.is_dir() or not model.is_dir():
        raise SystemExit(f"{data} and {model}: not both there; the benchmark needs them")
    options = FeatureOptions(layers=(0, 2, 3), poolings=POOLINGS, max_tokens=128, batch_size=64)
    template = PromptTemplate(str(model), TEMPLATE, "\n")
    extractor = FeatureExtractor(str(model), options, template)

    def rows(path: Path) -> Float64:
        prompts = [json.loads(line)["input"] for line in path.read_bytes().splitlines()]
        rendered = [template.render([{"role": "user", "content": prompt}]) for prompt in prompts]
        return extractor.standardisation.apply(extractor.pooled(rendered))

    domains = sorted(folder.name for folder in data.iterdir())
    train = {domain: rows(data / domain / "train.jsonl") for domain in domains}
    test = {domain: rows(data / domain / "test.jsonl") for domain in domains}
    outside = rows(data.parent / "clinc150_oos" / "test.jsonl")
    ridge, width = 200.0, options.expansion
    figures: dict[str, Any] = {"ridge": ridge, "features": width, "seeds": seeds}
    for form in FORMS:
        taken = [
            _routed(EXPANSIONS[form](extractor.pooled_dim, width, seed), width, ridge, train, test, outside)
            for seed in range(seeds)
        ]
        figures[form] = {
            name: {"mean": round(statistics.mean(values), 4), "spread": round(statistics.stdev(values), 4)}
            for name, values in zip(("accuracy", "auroc"), zip(*taken, strict=True), strict=True)
        }
    return figures


def _routed(
    expansion: Expansion,
    width: int,
    ridge: float,
    train: dict[str, Float64],
    test: dict[str, Float64],
    outside: Float64,
) -> tuple[float, float]:
    """Routing accuracy, and AUROC of the top score, with features as the product defines them."""

    def features(rows: Float64) -> Float64:
        return expansion.apply(rows).astype(np.float32).astype(np.float64)

    router = StreamingRidge(width, ridge, fingerprint="benchmark")
    for domain, rows in train.items():
        router.observe(features(rows), [domain] * len(rows))
    weights = router.weights()
    scores = {domain: weights.scores(features(rows)) for domain, rows in test.items()}
    chosen = [weights.domains[column] for one in scores.values() for column in one.argmax(axis=1)]
    expected = [domain for domain, one in scores.items() for _ in range(len(one))]
    inside = np.concatenate([one.max(axis=1) for one in scores.values()])
    return routing_accuracy(chosen, expected), auroc(inside, weights.scores(features(outside)).max(axis=1))


if __name__ == "__main__":
    main()
