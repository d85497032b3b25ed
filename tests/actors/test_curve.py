"""However long a training lasts, its curve has few points, evenly over all of it."""

from itertools import pairwise

import pytest

from actors.curve import Curve


@pytest.mark.parametrize(("first", "last"), [(1, 1), (1, 59), (1, 60), (1, 180), (1, 100_000), (500, 900)])
def test_few_points_evenly_over_all_steps(first: int, last: int) -> None:
    curve = Curve()
    for step in range(first, last + 1):
        curve.add(step, 1 / step)
    points = curve.points
    assert 0 < len(points) < 60 and points[0] == (first, 1 / first)
    assert all(loss == 1 / step for step, loss in points)
    gaps = {later[0] - earlier[0] for earlier, later in pairwise(points)}
    assert len(gaps) <= 1
    assert last - points[-1][0] < max(gaps, default=1)


def test_what_is_told_does_not_change_afterwards() -> None:
    curve = Curve()
    curve.add(1, 1.0)
    told = curve.points
    curve.add(2, 0.5)
    assert told == ((1, 1.0),)
