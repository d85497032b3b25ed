"""What tells an adapter that is served as it was learned from one that is not, whatever the precision."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from learning.completion_loss import EncodedExample
from learning.contract import Evaluation
from learning.parity import disagreement, parity_rows

LEARNED = [0.1, 0.2, 0.1, 0.4]
BASE = [3.0, 2.5, 4.0, 1.0]


def figures(*losses: float) -> Evaluation:
    return Evaluation(1.0, 0.0, len(losses), losses, (False,) * len(losses))


def example(length: int, is_cut: bool = False) -> EncodedExample:
    return EncodedExample(list(range(length)), 2, is_cut)


def test_the_rows_are_those_on_which_the_adapter_shows_most() -> None:
    examples = [example(10 + at) for at in range(6)]
    rows = parity_rows(examples, figures(0.1, 0.1, 0.1, 0.1, 0.1, 5.0), figures(0.2, 3.0, 0.1, 2.0, 1.0, 0.0))
    assert [len(row.ids) - 10 for row in rows] == [5, 1, 3, 4] and [row.loss for row in rows] == [5.0, 0.1, 0.1, 0.1]
    assert all(row.prompt_tokens == 2 for row in rows)


def test_without_the_base_s_figures_they_are_the_shortest() -> None:
    rows = parity_rows([example(30), example(10), example(20)], figures(1.0, 2.0, 3.0))
    assert [len(row.ids) for row in rows] == [10, 20, 30]


def test_what_was_cut_is_long_or_no_number_is_no_row() -> None:
    examples = [example(10, is_cut=True), example(257), example(11), example(12)]
    assert [len(row.ids) for row in parity_rows(examples, figures(1.0, 1.0, math.nan, 1.0))] == [12]
    assert parity_rows([], Evaluation(0.0, 0.0, 0)) == ()


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_what_was_learned_passes_and_what_was_not_does_not(dtype: str) -> None:
    assert disagreement(LEARNED, LEARNED, BASE, dtype) is None
    assert "no effect" in (disagreement(LEARNED, BASE, BASE, dtype) or "")
    assert "another effect" in (disagreement(LEARNED, [6.0, 0.2, 0.1, 9.0], BASE, dtype) or "")
    half = [(own + base) / 2 for own, base in zip(LEARNED, BASE, strict=True)]
    assert disagreement(LEARNED, half, BASE, dtype) is not None


def test_rounding_is_no_disagreement_and_more_than_that_is() -> None:
    for dtype, rounding in (("float32", 0.005), ("bfloat16", 0.09)):
        near = [loss + rounding for loss in LEARNED]
        assert disagreement(LEARNED, near, LEARNED, dtype) is None
    assert disagreement(LEARNED, [loss + 0.09 for loss in LEARNED], LEARNED, "float32") is not None


@given(
    learned=st.lists(st.floats(0.0, 5.0), min_size=1, max_size=4),
    effect=st.floats(0.2, 5.0),
    noise=st.floats(-0.009, 0.009),
)
def test_an_effect_beyond_rounding_is_always_told_from_none(learned: list[float], effect: float, noise: float) -> None:
    bare = [loss + effect for loss in learned]
    assert disagreement(learned, bare, bare, "float32") is not None
    assert disagreement(learned, [loss + noise for loss in learned], bare, "float32") is None
