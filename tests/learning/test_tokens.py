"""Token lists: rectangles with little padding, and runs without."""

from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from learning.tokens import batches, runs, shorten


@given(lengths=st.lists(st.integers(1, 600), max_size=60), rows=st.integers(1, 32))
def test_every_text_is_in_one_rectangle_with_little_padding(lengths: list[int], rows: int) -> None:
    found = list(batches(lengths, rows))
    assert sorted(place for batch in found for place in batch) == list(range(len(lengths)))
    for batch in found:
        inside = [lengths[place] for place in batch]
        assert 1 <= len(batch) <= rows and inside == sorted(inside)
        padding = len(inside) * inside[-1] - sum(inside)
        assert padding <= max(24, sum(inside) / 8)


def test_texts_of_like_length_go_together() -> None:
    assert list(batches([40, 200, 41, 42, 199], 32)) == [[0, 2, 3], [4, 1]]
    assert list(batches([7] * 5, 2)) == [[0, 1], [2, 3], [4]]


@given(lengths=st.lists(st.integers(1, 600), max_size=60), rows=st.integers(1, 32), tokens=st.integers(1, 900))
def test_runs_keep_the_order_and_both_bounds(lengths: list[int], rows: int, tokens: int) -> None:
    found = list(runs(lengths, rows, tokens))
    assert [place for run in found for place in range(len(lengths))[run]] == list(range(len(lengths)))
    for run in found:
        inside = lengths[run]
        assert len(inside) == 1 or (1 < len(inside) <= rows and sum(inside) <= tokens)
    for run, behind in pairwise(found):
        inside = lengths[run]
        assert len(inside) == rows or sum(inside) + lengths[behind.start] > tokens, "no run ends before it must"


@given(ids=st.lists(st.integers(), max_size=30), limit=st.integers(0, 12))
def test_shortened_keeps_both_ends(ids: list[int], limit: int) -> None:
    kept = shorten(ids, limit)
    assert len(kept) == min(limit, len(ids))
    tail = len(kept) // 2
    assert kept == [*ids[: len(kept) - tail], *(ids[len(ids) - tail :] if tail else [])]
