"""The fixed random expansion: what it is for ever, and that it is the same in any batch, bit for bit."""

import hashlib

import numpy as np
import pytest

from learning.expansion import RandomExpansion


def test_the_expansion_of_a_seed_never_changes() -> None:
    expansion = RandomExpansion(19, 8, seed=7)
    dense = expansion._signs_EP.toarray()
    content = dense.tobytes() + expansion._bias_E.tobytes()
    # A router's state outlives machines and versions: this value may only change together with `scheme`.
    assert hashlib.sha256(content).hexdigest() == "72da8f33446db905d8a558c44f623b1725b40b640818e027220508e9917fe2ee"
    assert RandomExpansion.scheme == "pcg64-dealt-signs-8-relu-bias-1"


@pytest.mark.parametrize(("inputs", "width"), [(576, 1024), (64, 100), (9, 5), (8, 3), (3, 20), (1, 2)])
def test_it_is_the_dense_product_of_its_definition(inputs: int, width: int) -> None:
    expansion = RandomExpansion(inputs, width, seed=3)
    rows = np.random.default_rng(0).standard_normal((130, inputs))
    signs = expansion._signs_EP.toarray()
    dealt = min(8, inputs)
    assert set(np.unique(signs)) <= {-1.0, 0.0, 1.0} and (np.abs(signs).sum(axis=1) == dealt).all()
    expected = np.maximum(rows @ signs.T / np.sqrt(dealt) + expansion._bias_E, 0.0)
    assert np.allclose(expansion.apply(rows), expected, atol=1e-12)


def test_every_input_is_used_as_often_as_every_other() -> None:
    uses = np.abs(RandomExpansion(64, 128, seed=0)._signs_EP.toarray()).sum(axis=0)
    assert (uses == 128 * 8 / 64).all()
    wide = np.abs(RandomExpansion(1000, 250, seed=0)._signs_EP.toarray()).sum(axis=0)
    assert (wide == 2).all()


def test_a_row_is_the_same_bit_for_bit_in_any_batch() -> None:
    expansion = RandomExpansion(50, 300, seed=1)
    rows = np.random.default_rng(0).standard_normal((150, 50))
    together = expansion.apply(rows)
    assert np.array_equal(together, np.concatenate([expansion.apply(row[None]) for row in rows]))
    assert np.array_equal(together[::-1], expansion.apply(rows[::-1]))


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
