"""Figures of accuracy matrices, against ones computed by hand and those of TRACE's tables."""

import pytest

from benchmarks.continual.matrix import (
    average_accuracy,
    backward_transfer,
    changed,
    diagonal,
    forgetting,
    forward_transfer,
)

THREE = [[0.8, 0.1, 0.2], [0.9, 0.7, 0.3], [0.5, 0.6, 1.0]]


def from_columns(right_after: list[float], final: list[float]) -> list[list[float]]:
    """A matrix with this diagonal and this last row; what it was in between is not published."""
    size = len(final)
    rows = [[right_after[task] for task in range(size)] for _ in range(size)]
    return [*rows[:-1], final]


def test_by_hand() -> None:
    assert average_accuracy(THREE) == pytest.approx(2.1 / 3)
    assert diagonal(THREE) == pytest.approx(2.5 / 3)
    assert backward_transfer(THREE) == pytest.approx((-0.3 - 0.1) / 2)
    assert backward_transfer(THREE, "T") == pytest.approx((-0.3 - 0.1) / 3)
    assert forward_transfer(THREE, [0.0, 0.05, 0.05]) == pytest.approx((0.05 + 0.25) / 2)
    assert forgetting(THREE) == pytest.approx((0.4 + 0.1) / 2)


def test_one_task_neither_forgets_nor_transfers() -> None:
    one = [[0.4]]
    assert (average_accuracy(one), diagonal(one)) == (0.4, 0.4)
    assert (backward_transfer(one), forward_transfer(one, [0.1]), forgetting(one), changed([[[1.0]]])) == (0, 0, 0, 0)


@pytest.mark.parametrize(
    ("right_after", "final", "total", "overall", "percent"),
    [
        (
            [0.5, 0.735, 0.523, 0.58, 0.764, 0.383, 0.582, 0.408],
            [0.454, 0.609, 0.457, 0.512, 0.637, 0.272, 0.548, 0.408],
            -0.578,
            0.487,
            -8.3,
        ),
        (
            [0.511, 0.713, 0.51, 0.578, 0.68, 0.37, 0.486, 0.37],
            [0.277, 0.24, 0.121, 0.004, 0.0, 0.0, 0.0, 0.37],
            -3.206,
            0.127,
            -45.7,
        ),
    ],
    ids=["SeqFT", "LoRASeqFT"],
)
def test_traces_table_divides_by_one_task_less(
    right_after: list[float], final: list[float], total: float, overall: float, percent: float
) -> None:
    """LLaMA-2-7B-Chat's rows of TRACE's Table 1, from the scores by task of its appendix."""
    matrix = from_columns(right_after, final)
    assert backward_transfer(matrix) == pytest.approx(total / 7)
    assert round(100 * backward_transfer(matrix), 1) == pytest.approx(percent, abs=0.11)
    assert backward_transfer(matrix, "T") == pytest.approx(total / 8)
    assert average_accuracy(matrix) == pytest.approx(overall, abs=0.001)


def test_changed_answers_are_counted_pair_by_pair() -> None:
    after_first = [[1.0, 0.0, 1.0, 1.0], [0.0, 0.0]]
    after_second = [[1.0, 1.0, 0.0, 1.0], [1.0, 0.0]]
    assert changed([after_first, after_second]) == pytest.approx(2 / 4)
    after_third = [[1.0, 1.0, 0.0, 1.0], [0.0, 0.0], [1.0]]
    longer = [[*after_first, [0.0]], [*after_second, [0.0]], after_third]
    assert changed(longer) == pytest.approx((0.5 + 0.0 + 0.5) / 3)
