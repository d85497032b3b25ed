"""Making an actor: nothing that fails then ends its process, and everything is said."""

from __future__ import annotations

import threading
from typing import Any

import pytest

from actors import making
from actors.making import Making, NotMade
from actors.vitals import Vitals


@pytest.fixture(autouse=True)
def short_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(making, "_SHORTEST_PAUSE_S", 0.001)
    monkeypatch.setattr(making, "PATIENCE_S", 0.05)


@pytest.mark.parametrize("fault", [OSError("broker away"), ValueError("x y"), SystemExit(3), MemoryError()])
def test_what_fails_is_tried_again_until_it_is_there(fault: BaseException) -> None:
    outcomes: list[Any] = [fault] * 5 + ["the actor"]
    gate = threading.Event()

    def build() -> Any:
        outcome = outcomes.pop(0)
        if len(outcomes) == 1:
            gate.wait(30)
        if isinstance(outcome, BaseException):
            raise outcome
        return outcome

    made = Making(build)
    while made.vitals().failures < 4:
        pass
    with pytest.raises(NotMade, match="can't be made"):
        made.get()
    vitals = made.vitals()
    assert not vitals.is_made and str(vitals.vitals.trouble).startswith("can't be made")
    gate.set()
    assert made.made.result(30) == "the actor" and made.get() == "the actor"
    assert made.vitals().is_made and made.vitals().vitals.trouble is None


def test_an_actor_says_itself_how_it_is() -> None:
    class Actor:
        def vitals(self) -> Vitals:
            return Vitals(5.0, 2.0, "polling: broker away")

    made = Making(Actor)
    made.made.result(30)
    assert made.vitals().vitals == Vitals(5.0, 2.0, "polling: broker away")


def test_each_process_has_a_name_of_its_own() -> None:
    assert Making(lambda: 1).vitals().born != Making(lambda: 1).vitals().born
