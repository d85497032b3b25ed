"""What the gate lets through."""

from pathlib import Path

import pytest

from learning.contract import Evaluation, TrainingResult
from learning.gate import Gate

BASE = Evaluation(2.0, 0.0, 50)


def result(candidate: Evaluation, incumbent: Evaluation | None = None, base: Evaluation = BASE) -> TrainingResult:
    return TrainingResult(Path("."), 8, 10, 1.0, 1.0, 0.1, candidate, base, incumbent)


@pytest.mark.parametrize(
    ("candidate", "incumbent", "accepted", "reason"),
    [
        (Evaluation(1.0, 0.5, 50), None, True, "beats the base"),
        (Evaluation(2.0, 0.5, 50), None, False, "does not beat the base"),
        (Evaluation(float("nan"), 0.5, 50), None, False, "is nan"),
        (Evaluation(0.5, 0.5, 50), Evaluation(0.6, 0.5, 50), True, "beats the incumbent"),
        (Evaluation(0.7, 0.9, 50), Evaluation(0.6, 0.5, 50), False, "does not beat the incumbent"),
        (Evaluation(0.6, 0.9, 50), Evaluation(0.6, 0.9, 50), False, "does not beat the incumbent"),
        (Evaluation(0.6, 1.0, 50), Evaluation(0.6, 1.0, 50), True, "every held-out answer is exact"),
        (Evaluation(2.5, 1.0, 50), Evaluation(3.0, 1.0, 50), False, "does not beat the base"),
    ],
)
def test_verdicts(candidate: Evaluation, incumbent: Evaluation | None, accepted: bool, reason: str) -> None:
    verdict = Gate().decide(result(candidate, incumbent))
    assert verdict.accepted is accepted and reason in verdict.reason


def test_the_least_gain_is_asked_of_both() -> None:
    gate = Gate(min_gain=0.2)
    assert not gate.decide(result(Evaluation(1.9, 0.0, 50))).accepted
    assert gate.decide(result(Evaluation(1.7, 0.0, 50))).accepted
    assert not gate.decide(result(Evaluation(0.5, 0.0, 50), Evaluation(0.6, 0.0, 50))).accepted


def test_nothing_held_out_is_nothing_to_judge_by() -> None:
    empty = Evaluation(0.0, 0.0, 0)
    verdict = Gate().decide(result(empty, base=empty))
    assert not verdict.accepted and "no held-out examples" in verdict.reason
