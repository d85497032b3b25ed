"""Exactness under any course of events (`courses` draws them, `judgement` says what must hold).

One course again: `COURSE=4711 pytest tests/actors/test_courses.py`. Thousands of them:
`python -m tests.actors.courses 0 10000`.
"""

from __future__ import annotations

import os

import pytest

from tests.actors import courses

QUICK, MANY = 200, 2_000
TOGETHER = 20
"""Courses in one test: each is a matter of milliseconds."""


@pytest.mark.parametrize("first", range(0, QUICK, TOGETHER))
def test_a_course_ends_with_everything_counted_once_and_learned_once(first: int) -> None:
    for seed in range(first, first + TOGETHER):
        courses.run(seed)


@pytest.mark.slow
@pytest.mark.parametrize("first", range(QUICK, MANY, 100))
def test_many_courses_do(first: int) -> None:
    for seed in range(first, first + 100):
        courses.run(seed)


@pytest.mark.skipif("COURSE" not in os.environ, reason="no course is asked for in COURSE")
def test_the_course_asked_for() -> None:
    courses.run(int(os.environ["COURSE"]))
