"""The packed symmetric format against plain matrices, for even and odd orders."""

import numpy as np
import pytest

from learning import symmetric
from learning.errors import SolveError

ORDERS = [1, 2, 3, 4, 7, 8, 33]


def packed_and_whole(dim: int) -> tuple[np.ndarray, np.ndarray]:
    rows = np.random.default_rng(dim).standard_normal((dim + 3, dim))
    packed = np.zeros(symmetric.packed_length(dim))
    symmetric.add_outer(packed, rows)
    return packed, rows.T @ rows


@pytest.mark.parametrize("dim", ORDERS)
def test_products(dim: int) -> None:
    packed, whole = packed_and_whole(dim)
    right = np.random.default_rng(0).standard_normal((dim, 3))
    assert np.allclose(symmetric.times(packed, right), whole @ right)


@pytest.mark.parametrize("dim", ORDERS)
def test_diagonal_and_rank_updates(dim: int) -> None:
    packed, whole = packed_and_whole(dim)
    rows = np.random.default_rng(1).standard_normal((5, dim))
    symmetric.add_outer(packed, rows, alpha=-0.5)
    symmetric.add_outer(packed, rows[:0])
    symmetric.add_diagonal(packed, dim, 2.5)
    expected = whole - 0.5 * rows.T @ rows + 2.5 * np.eye(dim)
    assert np.allclose(symmetric.times(packed, np.eye(dim)), expected)


@pytest.mark.parametrize("dim", ORDERS)
def test_solution_and_inverse(dim: int) -> None:
    packed, whole = packed_and_whole(dim)
    right = np.random.default_rng(2).standard_normal((dim, 2))
    factored = symmetric.factor(packed, dim, "test")
    assert np.allclose(symmetric.solve_factored(factored, right), np.linalg.solve(whole, right))
    forms = np.square(symmetric.half_solve(factored, right)).sum(axis=0)
    assert np.allclose(forms, np.diag(right.T @ np.linalg.solve(whole, right)))
    assert symmetric.half_solve(factored, right[:, :0]).shape == (dim, 0)
    inverse = symmetric.invert_factored(factored, dim)
    assert np.allclose(symmetric.times(inverse, np.eye(dim)), np.linalg.inv(whole))


def test_an_indefinite_matrix_is_refused_by_name() -> None:
    packed = np.zeros(symmetric.packed_length(3))
    symmetric.add_diagonal(packed, 3, -1.0)
    with pytest.raises(SolveError, match=r"router of the test.*raise the ridge"):
        symmetric.factor(packed, 3, "router of the test")
