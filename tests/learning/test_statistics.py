"""Blocks of statistics: the smaller form, and which rows are refused."""

import copy

import numpy as np
import pytest

from learning.errors import LearningError, NonFiniteFeatures
from learning.moments import Sums
from learning.statistics import Statistics
from learning.symmetric import packed_length

ROWS = np.random.default_rng(0).standard_normal((40, 9))
DOMAINS = ["b", "a"] * 20


def test_the_smaller_form_is_taken() -> None:
    few, many = Statistics.of(ROWS[:6], DOMAINS[:6], "f"), Statistics.of(ROWS, DOMAINS, "f")
    assert few.rows_ND is not None and few.sums is None and few.row_domains == tuple(DOMAINS[:6])
    assert many.rows_ND is None and many.sums is not None and many.row_domains == ()
    for block, count in ((few, 3), (many, 20)):
        assert block.domains == ("a", "b") and dict(block.counts) == {"a": count, "b": count}
        assert block.rows == 2 * count and block.feature_dim == 9


def test_sums_are_those_of_the_domains_rows() -> None:
    block = Statistics.of(ROWS, DOMAINS, "f")
    assert block.sums is not None
    part = block.sums["a"]
    assert isinstance(part, Sums) and part.count == 20 and part.gram.size == packed_length(9)
    assert np.allclose(part.sum_D, ROWS[1::2].sum(axis=0))


@pytest.mark.parametrize("spoilt", [(0,), (39,), (3, 4, 17), tuple(range(40))], ids=str)
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_rows_that_are_not_finite_are_all_named(spoilt: tuple[int, ...], value: float) -> None:
    rows = ROWS.copy()
    rows[list(spoilt), 4] = value
    with pytest.raises(
        NonFiniteFeatures, match=f"{len(spoilt)} of 40 rows are not finite, first row {spoilt[0]}"
    ) as found:
        Statistics.of(rows, DOMAINS, "f")
    assert found.value.rows == spoilt
    kept = [index for index in range(40) if index not in spoilt]
    if kept:
        assert Statistics.of(rows[kept], [DOMAINS[index] for index in kept], "f").rows == len(kept)


def test_an_error_that_names_rows_can_be_sent_to_another_process() -> None:
    sent = copy.copy(NonFiniteFeatures("two rows", [3, 8]))  # the way in which pickle takes it apart and makes it anew
    assert (type(sent), str(sent), sent.rows) == (NonFiniteFeatures, "two rows", (3, 8))


@pytest.mark.parametrize(
    ("features", "domains"),
    [(ROWS[0], ["a"]), (ROWS[:2], ["a"]), (ROWS[:2], "ab"), (ROWS[:2], ["a", ""]), (np.full((1, 2), np.nan), ["a"])],
    ids=["vector", "count", "string", "unnamed", "nan"],
)
def test_unusable_features_are_refused(features: np.ndarray, domains: list[str]) -> None:
    with pytest.raises(LearningError):
        Statistics.of(features, domains, "f")
