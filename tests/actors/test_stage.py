"""What failed is tried again: after a pause that grows, and never never."""

from __future__ import annotations

import itertools

import pytest

from actors import stage as stage_module
from actors.errors import NotCaughtUp, PublicationFailed, Unreachable
from actors.stage import Stage
from learning.errors import LearningError


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    now = [1000.0]
    monkeypatch.setattr(stage_module.time, "monotonic", lambda: now[0])
    return now


@pytest.mark.parametrize(
    ("error", "longest"),
    [(RuntimeError("down"), 60.0), (LearningError("does not fit"), 600.0), (PublicationFailed("no replica"), 600.0)],
)
def test_pauses_grow_up_to_a_longest(clock: list[float], error: Exception, longest: float) -> None:
    stage, pauses = Stage("learning"), []
    for _ in range(2000):
        stage.fail(error)
        pauses.append(stage.retry_at - clock[0])
        assert not stage.is_due(0)
        clock[0] = stage.retry_at
        assert stage.is_due(0)
    assert pauses[0] == 2.0 and all(a <= b for a, b in itertools.pairwise(pauses))
    assert pauses[-1] == longest


def test_who_has_died_is_replaced_at_once_and_then_with_pauses(clock: list[float]) -> None:
    stage = Stage("learning")
    stage.fail(Unreachable("learner-0 does not answer"))
    assert stage.is_due(0) and "next try in 0 s" in stage.in_words()
    stage.fail(Unreachable("learner-0 is not running"))
    assert not stage.is_due(0) and stage.retry_at == clock[0] + 4.0
    stage.succeed("published", "alpha@v1")
    stage.fail(RuntimeError("down"))
    assert not stage.is_due(0), "only who worked on it may be replaced"


def test_new_examples_are_a_reason_to_try_what_the_learner_refused(clock: list[float]) -> None:
    stage = Stage()
    stage.fail(LearningError("no example fits"))
    assert stage.is_due(1)
    assert "next try in 2 s or when new examples are complete" in stage.in_words()
    clock[0] += 1.5
    stage.fail(RuntimeError("the worker died"))
    assert not stage.is_due(1), "a worker that is down does not come back for them"
    assert stage.in_words() == "the worker died; next try in 4 s"


def test_a_router_that_only_has_to_read_on_is_no_failure(clock: list[float]) -> None:
    stage = Stage("closed")
    stage.fail(NotCaughtUp("the router is behind"))
    assert (stage.state, stage.failures, stage.retry_at - clock[0]) == ("closed", 0, 0.5)
    assert stage.in_words() == "the router is behind"
