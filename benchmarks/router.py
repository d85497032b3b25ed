"""A block of 512 rows enters the router (d = 4096) at the speed of the machine's own matrix product.

Measured in one run, each the best of interleaved repetitions, all in float64:

- gemm: the machine's rate, the faster of a square product and of X^T X as a general product;
- accumulate: the block into the information form, by the rank-k update alone, by `StreamingRidge.observe` for a domain
  whose rows are still kept, and for one that has outgrown that (each row then enters its domain's sums as well: two
  rank-k updates, of which one counts);
- woodbury: the block into the inverse (A + ridge I)^-1;
- per sample: the textbook recursion, rank one for every row (u = R x, R -= u u^T / (1 + x^T u)) with BLAS dsymv and
  dsyr; some rows are timed and scaled to the block.

Times are CPU seconds of this process, all threads together, so that what else the machine does hardly counts.
Rates are flop that are executed, so the half that symmetry saves is not counted as done; `against_full_product` is the
time that the full product X^T X takes at the machine's rate, divided by the time taken. Run it with
`python -m benchmarks.router`.
"""

from __future__ import annotations

import argparse
import itertools
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from scipy.linalg import blas

from benchmarks.hardware import describe
from learning.derivation import update_inverse
from learning.rls import StreamingRidge
from learning.symmetric import add_diagonal, add_outer, factor, invert_factored, packed_length, times

RESULT = Path(__file__).parent / "results" / "router.json"
RIDGE = 100.0
FOLDING = 4  # blocks timed together, because a large domain folds its rows only now and then


def main() -> None:
    """Run the benchmark, print its ratios and write its result."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dim", type=int, default=4096)
    parser.add_argument("--rows", type=int, default=512)
    parser.add_argument("--samples", type=int, default=16, help="rows of the per-sample recursion that are timed")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--out", type=Path, default=RESULT)
    options = parser.parse_args()
    result = measure(options.dim, options.rows, options.samples, options.repeats)
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_text(json.dumps(result, indent=1) + "\n")
    for name, ratio in result["ratios"].items():
        print(f"{name:55} {ratio:8.2f}")


def measure(dim: int, rows: int, samples: int, repeats: int) -> dict[str, Any]:
    """All figures of one run, as they go into the result file."""
    hardware = describe(("numpy", "scipy"))
    rng = np.random.default_rng(0)
    block_ND = np.maximum(rng.standard_normal((rows, dim)), 0.0)
    inverse = np.zeros(packed_length(dim))
    add_outer(inverse, np.maximum(rng.standard_normal((rows, dim)), 0.0))
    add_diagonal(inverse, dim, RIDGE)
    inverse = invert_factored(factor(inverse, dim, "benchmark"), dim)
    dense_DD = np.asfortranarray(times(inverse, np.eye(dim)))
    gram = np.zeros(packed_length(dim))
    router = StreamingRidge(dim, RIDGE)
    large = dim // rows + 2
    for _ in range(large):
        router.observe(block_ND, ["large"] * rows)
    fresh = (f"domain-{number}" for number in itertools.count())
    square = rng.standard_normal((2048, 2048))
    other_ND = block_ND.copy()

    def observe_large() -> None:
        for _ in range(FOLDING):
            router.observe(block_ND, ["large"] * rows)

    work: dict[str, Callable[[], object]] = {
        "gemm_square": lambda: square @ square.T.copy(),
        "gemm_product": lambda: block_ND.T @ other_ND,
        "accumulate_observe": lambda: router.observe(block_ND, [next(fresh)] * rows),
        "accumulate_observe_large": observe_large,
        "accumulate_kernel": lambda: add_outer(gram, block_ND),
        "woodbury": lambda: update_inverse(inverse, block_ND),
        "per_sample": lambda: recursion(dense_DD, block_ND[:samples]),
    }
    seconds = _best(work, repeats)
    seconds["per_sample"] *= rows / samples
    seconds["accumulate_observe_large"] /= FOLDING
    return {
        "claim": __doc__.splitlines()[0] if __doc__ else "",
        "hardware": hardware,
        "dim": dim,
        "rows": rows,
        "repeats": repeats,
        "per_sample_rows_timed": samples,
        **_figures(seconds, dim, rows),
    }


def recursion(inverse_DD: np.ndarray, rows_ND: np.ndarray) -> None:
    """Recursive least squares one row at a time, in place in the upper triangle of a column-major inverse."""
    for row_D in rows_ND:
        gain_D = blas.dsymv(1.0, inverse_DD, row_D, lower=0)
        blas.dsyr(-1.0 / (1.0 + row_D @ gain_D), gain_D, lower=0, a=inverse_DD, overwrite_a=1)


def _best(work: dict[str, Callable[[], object]], repeats: int) -> dict[str, float]:
    """Shortest CPU time of each; in turns, so that what else the machine does falls on all alike."""
    best = dict.fromkeys(work, float("inf"))
    for _ in range(repeats):
        for name, call in work.items():
            started = time.process_time()
            call()
            best[name] = min(best[name], time.process_time() - started)
    return best


def _figures(seconds: dict[str, float], dim: int, rows: int) -> dict[str, Any]:
    product = 2.0 * rows * dim**2
    rank_update = rows * dim * (dim + 1.0)
    # R X^T, X (R X^T), Cholesky of the inner matrix, triangular solve, symmetric rank-n update
    woodbury = product + 2.0 * rows**2 * dim + rows**3 / 3.0 + rows**2 * dim + rank_update
    flop = {
        "gemm_square": 2.0 * 2048**3,
        "gemm_product": product,
        "accumulate_observe": rank_update,
        "accumulate_observe_large": rank_update,
        "accumulate_kernel": rank_update,
        "woodbury": woodbury,
        "per_sample": rows * 3.0 * dim**2,
    }
    rates = {name: flop[name] / seconds[name] / 1e9 for name in flop}
    machine = max(rates["gemm_square"], rates["gemm_product"])
    ratios = {}
    accumulations = ("accumulate_kernel", "accumulate_observe", "accumulate_observe_large")
    for name in (*accumulations, "woodbury"):
        ratios[f"{name}: executed flop rate / gemm rate"] = rates[name] / machine
    for name in accumulations:
        ratios[f"{name}: time of a full product / time"] = product / (machine * 1e9) / seconds[name]
    ratios["woodbury: time per sample / time"] = seconds["per_sample"] / seconds["woodbury"]
    ratios["accumulate_observe: time per sample / time"] = seconds["per_sample"] / seconds["accumulate_observe"]
    return {
        "cpu_seconds": {name: round(value, 5) for name, value in seconds.items()},
        "gflops_executed": {name: round(value, 2) for name, value in rates.items()},
        "ratios": {name: round(value, 3) for name, value in ratios.items()},
    }


if __name__ == "__main__":
    main()
