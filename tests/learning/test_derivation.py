"""Two derivations, one answer: choice by cost, and a Woodbury inverse that has gone bad is noticed."""

import numpy as np
import pytest

from learning.derivation import Derivation, update_inverse
from learning.errors import SolveError
from learning.symmetric import add_diagonal, add_outer, factor, invert_factored, packed_length, times

DIM = 120


def gram_of(rows: np.ndarray) -> np.ndarray:
    packed = np.zeros(packed_length(rows.shape[1]))
    add_outer(packed, rows)
    return packed


def inverse_of(gram: np.ndarray, ridge: float) -> np.ndarray:
    regularised = gram.copy()
    add_diagonal(regularised, DIM, ridge)
    return invert_factored(factor(regularised, DIM, "test"), DIM)


def test_woodbury_gives_the_inverse_of_the_larger_matrix() -> None:
    rng = np.random.default_rng(0)
    rows, more = rng.standard_normal((300, DIM)), rng.standard_normal((700, DIM))  # more than one block
    inverse = inverse_of(gram_of(rows), 2.0)
    update_inverse(inverse, more)
    expected = times(inverse_of(gram_of(np.concatenate([rows, more])), 2.0), np.eye(DIM))
    assert np.allclose(times(inverse, np.eye(DIM)), expected, rtol=1e-11, atol=1e-13)


class Stream:
    """A derivation fed row by row beside its Gram matrix."""

    def __init__(self, ridge: float, columns: int = 2) -> None:
        self.rng = np.random.default_rng(1)
        self.gram = np.zeros(packed_length(DIM))
        self.targets = np.zeros((DIM, columns))
        self.counts = np.zeros(columns)
        self.derivation = Derivation(DIM, ridge)

    def step(self, count: int) -> str:
        rows = np.abs(self.rng.standard_normal((count, DIM)))
        add_outer(self.gram, rows)
        columns = len(self.counts)
        for column in range(columns):
            self.targets[:, column] += rows[column::columns].sum(axis=0)
        self.counts += count / columns
        self.derivation.note(rows)
        weight = self.derivation.solve(self.gram, self.targets.copy(), np.sqrt(self.counts))
        residual = self.targets - times(self.gram, weight) - self.derivation.ridge * weight
        assert np.abs(residual).max() < 1e-8 * np.abs(self.targets).max()
        return self.derivation.method


def test_the_cheaper_derivation_is_taken() -> None:
    stream = Stream(1.0)
    assert stream.step(400) == "cholesky"
    assert stream.derivation._inverse is None  # nothing yet says that steps will be small
    assert stream.step(4) == "cholesky"
    assert [stream.step(4) for _ in range(5)] == ["woodbury"] * 5
    assert stream.step(100) == "cholesky"  # too many rows for an update to pay
    assert stream.derivation._inverse is None


def test_columns_that_cost_more_to_measure_than_a_factorisation_are_solved_for() -> None:
    stream = Stream(1.0, columns=30)
    assert [stream.step(4) for _ in range(4)] == ["cholesky"] * 4
    assert stream.derivation._inverse is None  # which is memory that nothing is had for


def test_a_drifted_inverse_is_refined_and_a_spoilt_one_replaced() -> None:
    stream = Stream(1.0)
    for count in (400, 4, 4):
        stream.step(count)
    inverse = stream.derivation._inverse
    assert inverse is not None
    inverse *= 1.0 + 1e-7  # one refinement against A mends this
    assert stream.step(4) == "woodbury"
    inverse *= 1.5
    assert stream.step(4) == "reanchored"
    assert stream.step(4) == "woodbury"


def test_an_inverse_that_is_no_longer_positive_definite_is_replaced() -> None:
    stream = Stream(1.0)
    for count in (400, 4, 4):
        stream.step(count)
    inverse = stream.derivation._inverse
    assert inverse is not None
    inverse *= -1e6
    assert stream.step(4) == "reanchored"
    assert stream.step(4) == "woodbury"


def test_many_small_steps_stay_exact_where_the_matrix_is_ill_conditioned() -> None:
    stream = Stream(1e-4)
    methods = [stream.step(2) for _ in range(300)]
    assert methods.count("woodbury") > 200


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("steps", [(400,), (400, 4, 4)], ids=["cholesky", "woodbury"])
@pytest.mark.parametrize("where", ["sums", "weights"])
def test_what_is_not_finite_is_an_error_and_passes(value: float, steps: tuple[int, ...], where: str) -> None:
    stream = Stream(1.0)
    for count in steps:
        stream.step(count)
    gram, targets = stream.gram.copy(), stream.targets.copy()
    (gram if where == "sums" else targets).flat[7] = value
    with np.errstate(all="ignore"), pytest.raises(SolveError, match=f"{where} are not finite"):
        stream.derivation.solve(gram, targets, np.sqrt(stream.counts))
    assert stream.step(4) == "cholesky"
