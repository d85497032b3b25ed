"""Pieces that fit, and what happens when they do not."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from learning.completion_loss import EncodedExample
from learning.errors import LearningError
from learning.token_budget import TokenBudget


def rows(lengths: list[int]) -> list[EncodedExample]:
    return [EncodedExample([0] * length, 1) for length in lengths]


def area(piece: list[EncodedExample]) -> int:
    return len(piece) * max(len(example.ids) for example in piece)


@given(st.lists(st.integers(2, 60), max_size=40), st.integers(1, 9), st.none() | st.integers(1, 300))
def test_pieces_hold_everything_in_order_and_keep_to_the_limits(
    lengths: list[int], most: int, tokens: int | None
) -> None:
    examples = rows(lengths)
    pieces = list(TokenBudget(most, tokens).pieces(examples))
    assert [id(example) for piece in pieces for example in piece] == [id(example) for example in examples]
    assert all(1 <= len(piece) <= most for piece in pieces)
    assert all(len(piece) == 1 or area(piece) <= (tokens or area(piece)) for piece in pieces)


@given(st.lists(st.integers(2, 60), min_size=1, max_size=40), st.integers(60, 300))
def test_work_is_done_over_in_pieces_that_fit(lengths: list[int], room: int) -> None:
    done: list[int] = []

    def work(piece: list[EncodedExample]) -> int:
        if area(piece) > room:
            raise MemoryError
        done.extend(len(example.ids) for example in piece)
        return len(piece)

    budget = TokenBudget(100, None)
    assert sum(budget.each(work, rows(lengths), done.clear)) == len(lengths)
    assert done == lengths
    # What has been found out is not tried again.
    assert budget.each(lambda piece: area(piece) <= room, rows(lengths)) == [True] * len(
        list(budget.pieces(rows(lengths)))
    )


def test_one_example_that_does_not_fit_is_an_error() -> None:
    def work(piece: list[EncodedExample]) -> None:
        raise MemoryError("full")

    with pytest.raises(LearningError, match=r"one example of 40 tokens: .*\(full\)"):
        TokenBudget(8, None).each(work, rows([40] * 8))
