"""Blocks of statistics: the smaller form, and which rows are refused."""

import copy
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from learning.errors import LearningError, UnusableFeatures
from learning.moments import Sums
from learning.statistics import LARGEST_FEATURE, Statistics, checked_sums, usable_rows
from learning.symmetric import packed_length

ROWS = np.random.default_rng(0).standard_normal((40, 9))
DOMAINS = ["b", "a"] * 20


def test_the_smaller_form_is_taken() -> None:
    few, many = Statistics.of(ROWS[:6], DOMAINS[:6], "f"), Statistics.of(ROWS, DOMAINS, "f")
    assert few.rows_ND is not None and few.sums is None and few.row_domains == tuple(DOMAINS[:6])
    assert many.rows_ND is None and many.sums is not None and many.row_domains == ()
    for block, count in ((few, 3), (many, 20)):
        assert block.domains == ("a", "b") and dict(block.counts) == {"a": count, "b": count}
        assert block.feature_dim == 9


def test_sums_are_those_of_the_domains_rows() -> None:
    block = Statistics.of(ROWS, DOMAINS, "f")
    assert block.sums is not None
    part = block.sums["a"]
    assert isinstance(part, Sums) and part.count == 20 and part.gram.size == packed_length(9)
    assert np.allclose(part.sum_D, ROWS[1::2].sum(axis=0))


@pytest.mark.parametrize("spoilt", [(0,), (39,), (3, 4, 17), tuple(range(40))], ids=str)
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, 1e200, -1e200, 1.01e6])
def test_rows_that_are_not_finite_or_absurd_are_all_named(spoilt: tuple[int, ...], value: float) -> None:
    rows = ROWS.copy()
    rows[list(spoilt), 4] = value
    message = rf"{len(spoilt)} of 40 rows are not finite or beyond 1e\+06, first row {spoilt[0]} "
    with pytest.raises(UnusableFeatures, match=message) as found:
        Statistics.of(rows, DOMAINS, "f")
    assert found.value.rows == spoilt
    kept = [index for index in range(40) if index not in spoilt]
    if kept:
        assert sum(Statistics.of(rows[kept], [DOMAINS[index] for index in kept], "f").counts.values()) == len(kept)


@pytest.mark.parametrize("value", [LARGEST_FEATURE, -LARGEST_FEATURE])
def test_rows_of_largest_features_are_taken_as_rows_and_as_sums(value: float) -> None:
    rows = np.full((40, 9), value)
    few, many = Statistics.of(rows[:3], ["a"] * 3, "f"), Statistics.of(rows, ["a"] * 40, "f")
    assert few.rows_ND is not None and many.sums is not None
    assert checked_sums(many.sums, 9)["a"].count == 40


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
def test_what_is_usable_is_asked_alike_of_every_width(dtype: str) -> None:
    rows = np.array([[1.0, -2.0], [np.inf, 0.0], [0.0, np.nan], [3.0, 4.0], [0.0, -np.inf]], dtype=dtype)
    assert usable_rows(rows).tolist() == [True, False, False, True, False]
    assert usable_rows(np.empty((0, 2), dtype=dtype)).tolist() == []


@pytest.mark.parametrize(
    "spoilt",
    [
        {"gram": np.full(packed_length(9), 1e200)},
        {"gram": np.full(packed_length(9), -1e200)},
        {"gram": np.full(packed_length(9), np.nan)},
        {"sum_D": np.full(9, np.inf)},
        {"sum_D": np.full(9, -3e7)},
        {"sum_D": np.zeros(8)},
        {"gram": np.zeros(9)},
        {"count": 0},
    ],
    ids=["absurd", "negative", "nan", "infinite", "beyond its rows", "short", "short gram", "empty"],
)
def test_sums_that_no_usable_rows_have_are_refused(spoilt: dict[str, Any]) -> None:
    block = Statistics.of(ROWS, DOMAINS, "f")
    assert block.sums is not None
    kept = checked_sums(block.sums, 9)
    assert kept["b"].gram is not block.sums["b"].gram and np.array_equal(kept["b"].gram, block.sums["b"].gram)
    with pytest.raises(LearningError, match="sums of domain 'b'"):
        checked_sums({**block.sums, "b": replace(block.sums["b"], **spoilt)}, 9)


def test_an_error_that_names_rows_can_be_sent_to_another_process() -> None:
    sent = copy.copy(UnusableFeatures("two rows", [3, 8]))  # the way in which pickle takes it apart and makes it anew
    assert (type(sent), str(sent), sent.rows) == (UnusableFeatures, "two rows", (3, 8))


@pytest.mark.parametrize(
    ("features", "domains"),
    [(ROWS[0], ["a"]), (ROWS[:2], ["a"]), (ROWS[:2], "ab"), (ROWS[:2], ["a", ""]), (np.full((1, 2), np.nan), ["a"])],
    ids=["vector", "count", "string", "unnamed", "nan"],
)
def test_unusable_features_are_refused(features: np.ndarray, domains: list[str]) -> None:
    with pytest.raises(LearningError):
        Statistics.of(features, domains, "f")
