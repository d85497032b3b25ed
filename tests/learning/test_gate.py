"""What the gate lets through, and in whose place."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from learning.contract import Comparison, Evaluation, NewAdapter, TrainingResult
from learning.errors import LearningError
from learning.gate import Gate, Verdict

BASE = Evaluation(2.0, 0.0, 50)
BETTER = Evaluation(0.5, 0.5, 50)


def decide(
    candidate: Evaluation = BETTER,
    incumbent: Evaluation | None = None,
    base: Evaluation = BASE,
    touched: tuple[Comparison, ...] = (),
    gate: Gate | None = None,
    failure: str = "",
    base_delta: Path | None = None,
) -> Verdict:
    adapter = NewAdapter("work", Path("."), 8, 1, candidate, base, incumbent)
    other = NewAdapter("travel", Path("."), 8, 1, candidate, base, incumbent)
    result = TrainingResult((adapter, other), 10, 1.0, 1.0, 0.1, touched, base_delta, failure=failure)
    return (gate or Gate()).decide(result)


def figures(losses: list[float], exact: list[bool]) -> Evaluation:
    return Evaluation(float(np.mean(losses)), float(np.mean(exact)), len(exact), tuple(losses), tuple(exact))


def exam(
    rows: int, *, lost: float = 0.0, rise: float = 0.0, noise: float = 0.0, place: tuple[str, int] = ("work", 1)
) -> Comparison:
    """A share `lost` of the rows answered wrongly after, all of them `rise` nats worse, with symmetric noise."""
    generator = np.random.default_rng(rows)
    was = generator.gamma(1.0, 0.2, rows)
    now = np.abs(was + rise + noise * generator.standard_normal(rows))
    wrong = round(lost * rows)
    after = [False] * wrong + [True] * (rows - wrong)
    return Comparison(*place, figures(was.tolist(), [True] * rows), figures(now.tolist(), after))


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
    verdict = decide(candidate, incumbent)
    assert verdict.accepted is accepted and reason in verdict.reason and not verdict.segment_of_its_own


def test_the_least_gain_is_asked_of_both() -> None:
    gate = Gate(min_gain=0.2)
    assert not decide(Evaluation(1.9, 0.0, 50), gate=gate).accepted
    assert decide(Evaluation(1.7, 0.0, 50), gate=gate).accepted
    assert not decide(Evaluation(0.5, 0.0, 50), Evaluation(0.6, 0.0, 50), gate=gate).accepted


def test_nothing_held_out_is_nothing_to_judge_by() -> None:
    empty = Evaluation(0.0, 0.0, 0)
    verdict = decide(empty, base=empty)
    assert not verdict.accepted and "no held-out examples" in verdict.reason


def test_a_failed_training_is_rejected_with_its_own_words() -> None:
    assert decide(failure="training diverged: the loss is nan at step 7") == Verdict(
        False, "training diverged: the loss is nan at step 7"
    )


@pytest.mark.parametrize("rows", [5, 48, 64])
def test_a_forgotten_exam_makes_a_segment_of_its_own(rows: int) -> None:
    verdict = decide(incumbent=BASE, touched=(exam(rows, lost=1.0),))
    assert verdict == Verdict(
        True,
        f"exam of work segment 1: exact match 1.00 -> 0.00 over {rows} rows (95% sure of a loss of at least 1.00): "
        "kept as a segment of its own",
        segment_of_its_own=True,
    )


def test_what_goes_on_from_no_segment_is_one_of_its_own() -> None:
    adapter = NewAdapter("work", Path("."), 8, None, BETTER, BASE, Evaluation(3.0, 0.0, 50))
    verdict = Gate().decide(TrainingResult((adapter,), 10, 1.0, 1.0, 0.1))
    assert verdict.accepted and verdict.segment_of_its_own
    assert "beats the base's 2.0000" in verdict.reason and "3.0000" in verdict.reason
    worse = NewAdapter("work", Path("."), 8, None, Evaluation(2.5, 0.0, 50), BASE, Evaluation(3.0, 0.0, 50))
    assert not Gate().decide(TrainingResult((worse,), 10, 1.0, 1.0, 0.1)).accepted


def test_losses_tell_where_answers_are_never_exact() -> None:
    forgotten = exam(48, rise=1.5, noise=0.3)
    verdict = decide(incumbent=BASE, touched=(forgotten,))
    assert verdict.accepted and verdict.segment_of_its_own and "nats a token over 48 rows" in verdict.reason
    assert not decide(incumbent=BASE, touched=(forgotten,), gate=Gate(loss_tolerance=2.0)).segment_of_its_own


@settings(max_examples=60, deadline=None)
@given(rows=st.integers(1, 80), noise=st.floats(0.0, 0.15), flips=st.integers(0, 3), seed=st.integers(0, 2**31))
def test_noise_is_no_loss(rows: int, noise: float, flips: int, seed: int) -> None:
    """As many rows gained as lost, and losses as often better as worse."""
    generator = np.random.default_rng(seed)
    was = generator.gamma(1.0, 0.3, rows)
    change = noise * generator.random(rows) * np.where(np.arange(rows) % 2, 1.0, -1.0)
    flips = min(flips, rows // 2)
    before = [True] * flips + [False] * flips + [True] * (rows - 2 * flips)
    after = [False] * flips + [True] * flips + [True] * (rows - 2 * flips)
    same = Comparison("work", 1, figures(was.tolist(), before), figures((was + change).tolist(), after))
    verdict = decide(incumbent=BASE, touched=(same,))
    assert verdict.accepted and not verdict.segment_of_its_own, verdict.reason


@settings(max_examples=60, deadline=None)
@given(rows=st.integers(5, 80), lost=st.floats(0.8, 1.0), seed=st.integers(0, 2**31))
def test_most_of_an_exam_lost_is_never_noise(rows: int, lost: float, seed: int) -> None:
    generator = np.random.default_rng(seed)
    gone = generator.permutation(rows) < np.ceil(lost * rows)
    losses = generator.gamma(1.0, 0.3, rows)
    forgotten = Comparison(
        "work", 1, figures(losses.tolist(), [True] * rows), figures((losses + gone).tolist(), (~gone).tolist())
    )
    assert decide(incumbent=BASE, touched=(forgotten,)).segment_of_its_own


def test_rows_are_paired() -> None:
    """Rows that differ greatly among themselves, each a little worse: unpaired, that would drown."""
    was = [0.01 * 2.0**number for number in range(12)]
    worse = Comparison("work", 1, figures(was, [True] * 12), figures([loss + 0.2 for loss in was], [True] * 12))
    verdict = decide(incumbent=BASE, touched=(worse,))
    assert verdict.segment_of_its_own and "at least 0.200" in verdict.reason


def test_a_loss_that_is_no_number_is_a_loss() -> None:
    broken = Comparison("work", 1, figures([0.1] * 9, [True] * 9), figures([0.1] * 8 + [float("nan")], [True] * 9))
    assert decide(incumbent=BASE, touched=(broken,)).segment_of_its_own


def test_an_exam_without_rows_says_nothing() -> None:
    empty = Evaluation(0.0, 0.0, 0)
    verdict = decide(incumbent=BASE, touched=(Comparison("work", 1, empty, empty),))
    assert verdict.accepted and not verdict.segment_of_its_own


def test_what_others_lose_rejects_whether_or_not_they_get_an_adapter() -> None:
    for place in (("home", 3), ("travel", 1)):
        verdict = decide(incumbent=BASE, touched=(exam(20, lost=1.0, place=place),))
        assert not verdict.accepted and f"exam of {place[0]} segment {place[1]}" in verdict.reason
        assert decide(incumbent=BASE, touched=(exam(20, lost=0.0, place=place),)) == decide(incumbent=BASE)
    # On a changed base nobody keeps what it had.
    for lost in (exam(20, lost=1.0, place=("travel", 1)), exam(20, lost=1.0)):
        assert not decide(incumbent=BASE, touched=(lost,), base_delta=Path("delta")).accepted


@pytest.mark.parametrize(
    "after", [figures([0.1] * 8, [True] * 8), Evaluation(0.1, 1.0, 9)], ids=["fewer rows", "no rows"]
)
def test_exams_that_are_not_paired_are_an_error(after: Evaluation) -> None:
    torn = Comparison("work", 1, figures([0.1] * 9, [True] * 9), after)
    with pytest.raises(LearningError, match="expected the same 9 rows before and after"):
        decide(incumbent=BASE, touched=(torn,))
