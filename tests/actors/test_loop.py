"""A loop goes on whatever its step does, says what fails, and gives its process up when that does not end."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from actors import loop as loops
from actors.errors import OtherHome, SpoolAhead, Unanswered
from actors.loop import Loop
from actors.vitals import vitals_of
from learning.errors import FingerprintMismatch
from streaming.errors import LogReplaced, StreamError
from tests.actors.clock import skew

Make = Callable[..., Loop]


class Step:
    """Raises what it is told to, one after another and the last for ever; each turn is counted and takes some time."""

    def __init__(self, *errors: BaseException | None, takes_s: float = 0.0) -> None:
        self.errors, self.turns, self.takes_s = list(errors), 0, takes_s

    def __call__(self) -> None:
        self.turns += 1
        skew.skip(self.takes_s)
        error = self.errors.pop(0) if len(self.errors) > 1 else self.errors[0]
        if error is not None:
            raise error


@pytest.fixture
def make(monkeypatch: pytest.MonkeyPatch) -> Iterator[Make]:
    """Makes loops whose pauses are short and noted in `pauses` of the loop; all of them are stopped in the end."""
    made: list[Loop] = []

    def make(step: Callable[[], object], **options: object) -> Loop:
        loop = Loop("looping", step, **options)  # type: ignore[arg-type]
        made.append(loop)
        return loop

    yield make
    for loop in made:
        assert loop.stop(10)


def wait(until: Callable[[], object]) -> None:
    deadline = time.monotonic() + 20
    while not until():
        assert time.monotonic() < deadline, "did not come about"
        time.sleep(0.002)


@pytest.mark.parametrize(
    "error", [ValueError("no good"), MemoryError(), SystemExit(3), KeyboardInterrupt(), GeneratorExit()]
)
def test_whatever_a_step_raises_is_said_and_the_step_taken_again(make: Make, error: BaseException) -> None:
    step = Step(error, error, None)
    loop = make(step)
    seen: list[str | None] = []
    inner, loop._step = loop._step, lambda: (seen.append(loop.trouble), step())
    assert inner is step
    loop.start()
    wait(lambda: step.turns >= 3 and loop.trouble is None)
    expected = "no good" if isinstance(error, ValueError) else type(error).__name__
    assert seen[0] is None and expected in str(seen[1]) and expected in str(seen[2])
    assert vitals_of(time.monotonic(), [loop]).trouble is None


def test_pauses_double_up_to_ten_seconds_and_begin_anew_once_it_works(make: Make) -> None:
    loop = make(Step(*[ValueError("no good")] * 9, None, ValueError("again")), rest_s=7.0)
    assert [loop._turn() for _ in range(11)] == [0.1, 0.2, 0.4, 0.8, 1.6, 3.2, 6.4, 10.0, 10.0, 7.0, 0.1]


def test_stopping_ends_a_pause_and_a_step_that_waits(make: Make) -> None:
    failing = make(Step(ValueError("no good")))
    failing._pause_s = 10.0
    waiting = make(lambda: waiting.wait(600))
    for loop in (failing, waiting):
        loop.start()
    wait(lambda: failing.trouble)
    began = time.monotonic()
    assert failing.stop() and waiting.stop()
    assert time.monotonic() - began < 5


@pytest.mark.parametrize(("takes_s", "after"), [(10.0, 20), (30.0, 20), (1.0, 121)])
def test_what_fails_alike_long_enough_is_given_up(make: Make, takes_s: float, after: int) -> None:
    """At least twenty times, and two minutes: numbers in the words change nothing."""
    given: list[str] = []
    step = Step(*(OSError(f"try {n} failed") for n in range(200)), takes_s=takes_s)
    loop = make(step, give_up=given.append)
    while not given:
        loop._turn()
    assert step.turns == after and given == [f"looping: {after} failures in a row: try {after - 1} failed"]


@pytest.mark.parametrize(
    "errors",
    [
        [ValueError("no good"), ValueError("no better")],
        [ValueError("no good"), None],
        *([kind("a person decides")] for kind in (OtherHome, SpoolAhead, LogReplaced, Unanswered, FingerprintMismatch)),
    ],
    ids=str,
)
def test_what_another_process_could_do_no_better_with_is_never_given_up(
    make: Make, errors: list[BaseException | None]
) -> None:
    loop = make(Step(*errors * 200, takes_s=60.0), give_up=lambda words: pytest.fail(words))
    for _ in range(100):
        loop._turn()


def test_a_refusal_inside_a_failure_counts_as_one(make: Make) -> None:
    error = StreamError("beginning to read failed")
    error.__cause__ = SpoolAhead("the spool is ahead")
    loop = make(Step(error, takes_s=60.0), give_up=lambda words: pytest.fail(words))
    for _ in range(60):
        loop._turn()
    with pytest.raises(pytest.fail.Exception, match="beginning"):
        loop._step.errors = [StreamError("beginning to read failed")]  # type: ignore[attr-defined]
        for _ in range(60):
            loop._turn()


def test_progress_is_the_last_step_that_worked(make: Make) -> None:
    step = Step(None)
    loop = make(step)
    loop._turn()
    skew.skip(40.0)
    assert 40 <= loop.progress_seconds() < 45
    step.errors = [ValueError("no good")]
    loop._turn()
    other = make(Step(None))
    other._turn()
    vitals = vitals_of(time.monotonic() - 50.0, [other, loop])
    assert vitals.trouble == "looping: no good" and 40 <= (vitals.progress_seconds or 0) < 45
    assert 50 <= vitals.up_seconds < 55
    assert vitals_of(time.monotonic(), []).progress_seconds is None


def test_a_loop_that_can_not_even_note_its_failure_is_given_up(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    given: list[str] = []

    def out_of_memory(error: BaseException) -> str:
        raise MemoryError

    monkeypatch.setattr(loops, "in_words", out_of_memory)
    make(Step(ValueError("no good")), give_up=given.append).start()
    wait(lambda: given)
    assert given == ["looping: MemoryError"]


def test_the_process_ends_saying_why_also_while_other_threads_hang() -> None:
    script = (
        "import threading, time\n"
        "from actors import loop\n"
        "loop._ALIKE_FOR_S, loop._FIRST_PAUSE_S = 0.0, 0.0\n"
        "def step(): raise OSError('the device is lost')\n"
        "threading.Thread(target=time.sleep, args=(600,)).start()\n"
        "loop.Loop('observing', step, alike=3).start()\n"
    )
    root = Path(__file__).parents[2]
    found = subprocess.run(
        [sys.executable, "-c", script], cwd=root, env={**os.environ, "PYTHONPATH": str(root)}, capture_output=True,
        text=True, timeout=60,
    )  # fmt: skip
    assert found.returncode == 70
    assert "observing: 3 failures in a row: the device is lost; this process ends" in found.stderr


def test_its_thread_keeps_no_process_from_ending(make: Make) -> None:
    loop = make(Step(None), rest_s=0.01)
    loop.start()
    assert next(thread for thread in threading.enumerate() if thread.name == "looping").daemon
