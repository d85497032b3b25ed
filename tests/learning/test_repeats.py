"""Which examples are trained on, and which of an exam are still asked."""

from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from learning.contract import Example
from learning.repeats import in_force, spread, without_repeats


def example(prompt: str, completion: str = "yes", name: str = "") -> Example:
    return Example(name or f"{prompt}/{completion}", prompt, completion)


def test_what_comes_twice_is_trained_on_once_and_not_counted() -> None:
    train = [example("a", name="first"), example("b"), example("a", name="second"), example("a", "no")]
    kept, left_out = without_repeats(train, [])
    assert [one.id for one in kept] == ["first", "b/yes", "a/no"] and left_out == 0


def test_what_is_judged_by_is_not_trained_on_in_any_spelling() -> None:
    train = [example("What is  it?"), example("what\tis IT? "), example("Who is it?"), example("what is it?", "no")]
    kept, left_out = without_repeats(train, [example("What is it?", "held out")])
    assert [one.prompt for one in kept] == ["Who is it?"] and left_out == 3


def test_a_corrected_question_is_not_asked_any_more() -> None:
    exam = [example("Capital?", "Bonn"), example("River?", "Rhine"), example("Sea?", "North")]
    news = [example("capital?", "Berlin"), example("River?", "Rhine")]
    assert [one.prompt for one in in_force(exam, news)] == ["River?", "Sea?"]
    assert in_force(exam, []) == exam


@given(st.integers(0, 200), st.integers(1, 50))
def test_spread_takes_so_many_from_everywhere(count: int, most: int) -> None:
    taken = spread(range(count), most)
    assert len(taken) == min(count, most) and taken == sorted(set(taken))
    if count <= most:
        assert taken == list(range(count))
    else:
        gaps = [after - before for before, after in pairwise(taken)]
        assert all(abs(gap - count / most) < 1 for gap in gaps) and taken[0] == 0
