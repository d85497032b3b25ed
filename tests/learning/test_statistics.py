"""Blocks of statistics: the smaller form, the way through bytes, dropping rows."""

import numpy as np
import pytest

from learning.errors import LearningError
from learning.moments import Sums
from learning.statistics import Statistics
from learning.symmetric import packed_length

ROWS = np.random.default_rng(0).standard_normal((40, 9))
DOMAINS = ["b", "a"] * 20


def test_the_smaller_form_is_taken() -> None:
    few, many = Statistics.of(ROWS[:6], DOMAINS[:6], "f"), Statistics.of(ROWS, DOMAINS, "f")
    assert few.rows_ND is not None and few.sums is None and few.row_domains == tuple(DOMAINS[:6])
    assert many.rows_ND is None and many.sums is not None and many.row_domains == ()
    assert len(many.to_bytes()) < ROWS.nbytes + 9 * 40 * 8
    for block, count in ((few, 3), (many, 20)):
        assert block.domains == ("a", "b") and dict(block.counts) == {"a": count, "b": count}
        assert block.rows == 2 * count and block.feature_dim == 9


@pytest.mark.parametrize("count", [1, 6, 40])
def test_bytes_and_back(count: int) -> None:
    block = Statistics.of(ROWS[:count], DOMAINS[:count], "f")
    again = Statistics.from_bytes(block.to_bytes())
    assert again.to_bytes() == block.to_bytes()
    assert (again.fingerprint, again.domains, again.counts, again.row_domains) == (
        block.fingerprint,
        block.domains,
        block.counts,
        block.row_domains,
    )


def test_sums_are_those_of_the_domains_rows() -> None:
    block = Statistics.of(ROWS, DOMAINS, "f")
    assert block.sums is not None
    part = block.sums["a"]
    assert isinstance(part, Sums) and part.count == 20 and part.gram.size == packed_length(9)
    assert np.allclose(part.sum_D, ROWS[1::2].sum(axis=0))


def test_rows_can_be_dropped_but_not_out_of_sums() -> None:
    block = Statistics.of(ROWS[:6], DOMAINS[:6], "f").without({0, 2, 4})
    assert block.domains == ("a",) and block.rows == 3
    assert block.rows_ND is not None and np.array_equal(block.rows_ND, ROWS[[1, 3, 5]])
    with pytest.raises(LearningError, match="indices below 3"):
        block.without([3])
    with pytest.raises(LearningError, match="holds sums"):
        Statistics.of(ROWS, DOMAINS, "f").without([0])


@pytest.mark.parametrize(
    ("features", "domains"),
    [(ROWS[0], ["a"]), (ROWS[:2], ["a"]), (ROWS[:2], "ab"), (ROWS[:2], ["a", ""]), (np.full((1, 2), np.nan), ["a"])],
    ids=["vector", "count", "string", "unnamed", "nan"],
)
def test_unusable_features_are_refused(features: np.ndarray, domains: list[str]) -> None:
    with pytest.raises(LearningError):
        Statistics.of(features, domains, "f")
