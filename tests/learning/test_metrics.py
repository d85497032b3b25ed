"""The figures, by hand; and every example in the package's docstrings."""

import doctest
import importlib

import numpy as np
import pytest

from learning import metrics
from learning.errors import LearningError

MATRIX = [[0.9, 0.1, 0.0], [0.7, 0.8, 0.4], [0.8, 0.5, 1.0]]


@pytest.mark.parametrize("module", ["metrics", "optimiser", "tokens"])
def test_examples_in_docstrings(module: str) -> None:
    outcome = doctest.testmod(importlib.import_module(f"learning.{module}"))
    assert outcome.attempted > 0 and outcome.failed == 0


def test_backward_transfer_of_a_matrix() -> None:
    assert metrics.backward_transfer(MATRIX) == pytest.approx(((0.8 - 0.9) + (0.5 - 0.8)) / 2)
    assert metrics.backward_transfer([[0.4]]) == 0.0


def test_auroc_is_the_share_of_ordered_pairs() -> None:
    rng = np.random.default_rng(0)
    inside, outside = rng.integers(0, 6, 40), rng.integers(0, 5, 30)
    pairs = [(a > b) + 0.5 * (a == b) for a in inside for b in outside]
    assert metrics.auroc(inside, outside) == pytest.approx(np.mean(pairs))


def test_unusable_input_is_refused() -> None:
    with pytest.raises(LearningError):
        metrics.backward_transfer([[0.1, 0.2]])
    with pytest.raises(LearningError):
        metrics.routing_accuracy(["a"], [])
    with pytest.raises(LearningError):
        metrics.auroc([], [1.0])
