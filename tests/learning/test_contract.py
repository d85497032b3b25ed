"""What a result has to bring to be judged at all."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from learning.contract import Comparison, Evaluation, Example, Incumbent, NewAdapter, TrainingJob, TrainingResult
from learning.errors import LearningError

EXAM = (Example("1", "a?", "b"),)
FIGURES = Evaluation(1.0, 1.0, 1, (1.0,), (True,))
JOB = TrainingJob(
    "work",
    2,
    EXAM,
    (),
    Path("out"),
    0,
    (
        Incumbent("home", 1, Path("home"), EXAM),
        Incumbent("home", 2, Path("home2")),
        Incumbent("work", 1, Path("work"), EXAM),
    ),
)


def adapter(domain: str, continues: int | None) -> NewAdapter:
    return NewAdapter(domain, Path("out") / domain, 4, continues, FIGURES, FIGURES, None)


def sat(domain: str, segment: int) -> Comparison:
    return Comparison(domain, segment, FIGURES, FIGURES)


OWN, FIRST, SECOND = adapter("work", 1), adapter("home", 1), adapter("home", 2)


def result(*adapters: NewAdapter, touched: Sequence[Comparison] = (), delta: bool = False) -> TrainingResult:
    return TrainingResult(adapters, 1, 1.0, 0.0, 1.0, tuple(touched), Path("out/delta") if delta else None)


@pytest.mark.parametrize(
    "fits",
    [
        result(OWN),
        result(adapter("work", None)),
        result(OWN, FIRST, touched=[sat("home", 1)]),
        result(OWN, SECOND),
        result(OWN, FIRST, SECOND, touched=[sat("home", 1)], delta=True),
        result(OWN, touched=[sat("work", 1), sat("home", 1)]),
    ],
)
def test_a_result_of_the_job(fits: TrainingResult) -> None:
    fits.check(JOB)


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        (result(), "an adapter of work first"),
        (result(FIRST, OWN, touched=[sat("home", 1)]), "an adapter of work first"),
        (result(OWN, adapter("home", None)), "go on from a segment, got one that does not"),
        (result(OWN, adapter("home", 3)), "segments that the job names, got home segment 3"),
        (result(adapter("work", 2)), "segments that the job names, got work segment 2"),
        (result(OWN, touched=[sat("law", 1)]), "segments that the job names, got law segment 1"),
        (result(OWN, adapter("work", 1)), "one adapter of a segment, got several"),
        (result(OWN, FIRST), "the exam of home segment 1 was not sat"),
        (result(OWN, FIRST, touched=[sat("home", 1)], delta=True), "gives no adapter on it of home segment 2"),
        (result(OWN, FIRST, SECOND, delta=True), "the exam of home segment 1 was not sat"),
        (result(adapter("work", None), FIRST, SECOND, touched=[sat("home", 1)], delta=True), "of work segment 1"),
    ],
)
def test_what_is_none_is_refused_in_words(wrong: TrainingResult, said: str) -> None:
    with pytest.raises(LearningError, match=f"the result of work v2: .*{said}"):
        wrong.check(JOB)


def test_of_several_domains_a_job_knows_its_own() -> None:
    assert [each.segment for each in JOB.of_domain()] == [1]
    assert replace(JOB, domain="law").of_domain() == ()
