"""The fixed random expansion."""

import hashlib

import numpy as np

from learning.expansion import RandomExpansion


def test_the_expansion_of_a_seed_never_changes() -> None:
    expansion = RandomExpansion(3, 8, seed=7)
    content = expansion._projection_PE.tobytes() + expansion._bias_E.tobytes()
    # A router's state outlives machines and versions: this value may only change together with `scheme`.
    assert hashlib.sha256(content).hexdigest() == "4b77d26ec632116d0fb983818cf2a683499b1283846d7ec0283661e601c72d7e"
    assert RandomExpansion.scheme == "pcg64-uniform-relu-bias-1"


def test_scale_does_not_depend_on_the_input_width() -> None:
    rng = np.random.default_rng(0)
    spreads = [
        float(RandomExpansion(width, 512, seed=0).apply(rng.standard_normal((400, width))).std())
        for width in (16, 64, 1024)
    ]
    assert np.allclose(spreads, spreads[0], rtol=0.1) and 0.4 < spreads[0] < 0.9


def test_features_are_rectified_and_seeds_differ() -> None:
    rows = np.random.default_rng(0).standard_normal((5, 10))
    one, two = (RandomExpansion(10, 20, seed).apply(rows) for seed in (0, 1))
    assert one.shape == (5, 20) and one.min() == 0.0 and not np.allclose(one, two)


def test_width_zero_passes_features_through() -> None:
    rows = np.random.default_rng(0).standard_normal((5, 10))
    expansion = RandomExpansion(10, 0, seed=0)
    assert expansion.dim == 10 and np.array_equal(expansion.apply(rows), rows)
