"""The lower bound of a mean difference."""

import numpy as np
import pytest

from learning.paired_bootstrap import lower_bound


def test_equal_differences_leave_no_doubt() -> None:
    assert lower_bound([0.5] * 7, 0.95) == 0.5


def test_it_is_the_exact_quantile_where_that_is_known() -> None:
    """Resampled sums of zeros and ones are binomial."""
    differences = [1.0] * 12 + [0.0] * 36
    generator = np.random.default_rng(1)
    exact = np.quantile(generator.binomial(48, 0.25, 200_000) / 48, 0.05, method="lower")
    assert lower_bound(differences, 0.95) == pytest.approx(exact, abs=1 / 48)


def test_it_covers_as_often_as_it_says() -> None:
    generator = np.random.default_rng(2)
    above = [lower_bound(generator.standard_normal(48).tolist(), 0.95) > 0.0 for _ in range(300)]
    assert 0.02 < np.mean(above) < 0.09


def test_the_same_rows_give_the_same_bound() -> None:
    differences = np.random.default_rng(3).standard_normal(30).tolist()
    assert lower_bound(differences, 0.95) == lower_bound(differences, 0.95) < lower_bound(differences, 0.5)
