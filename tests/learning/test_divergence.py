"""When a training counts as diverged."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from learning.divergence import Divergence


def first_words(losses: list[float]) -> tuple[int, str]:
    divergence = Divergence()
    for step, loss in enumerate(losses, start=1):
        if words := divergence.seen(loss):
            return step, words
    return 0, ""


@pytest.mark.parametrize("loss", [math.nan, math.inf])
def test_no_number_is_seen_at_once(loss: float) -> None:
    step, words = first_words([2.0, 1.0, loss])
    assert step == 3 and f"the loss is {loss} at step 3" in words


def test_a_tenfold_loss_is_told_with_its_figures() -> None:
    step, words = first_words([2.0] * 30 + [400.0] * 5)
    assert step == 31 and "has grown to 41.8 nats a token at step 31 from 2 at its best" in words


def test_a_slow_rise_is_seen_too() -> None:
    step, _ = first_words([0.5] * 20 + [0.5 * 1.1**number for number in range(100)])
    assert step > 40


@given(st.lists(st.floats(0.0, 0.9), min_size=1, max_size=80))
def test_small_losses_may_jump(losses: list[float]) -> None:
    assert first_words(losses) == (0, "")


@given(st.integers(1, 80), st.floats(0.2, 20.0), st.data())
def test_a_falling_loss_with_hard_batches_is_none(steps: int, start: float, data: st.DataObject) -> None:
    factors = data.draw(st.lists(st.floats(0.5, 2.0), min_size=steps, max_size=steps))
    assert first_words([start * 0.97**step * factor for step, factor in enumerate(factors)]) == (0, "")
