"""Who is held out: one text, one side, however it is written and whatever id it carries."""

from __future__ import annotations

import pytest

from actors.exam import is_held_out, normalised
from streaming.records import TaskRecord


def record(text: str, record_id: str = "r", **fields: object) -> TaskRecord:
    return TaskRecord.model_validate({"id": record_id, "domain": "alpha", "prompt": text, "completion": "ok", **fields})


@pytest.mark.parametrize(
    "other",
    [
        "Wann fährt der Zug?",
        "  wann   FÄHRT\tder\nZug? ",
        "Wann fa\u0308hrt der Zug?",
        "Wann fährt der Zug\uff1f",
        "Wann\u00a0fährt der\u200b Zug?",
    ],
    ids=["the same", "case and space", "decomposed", "full width", "invisible marks"],
)
def test_the_same_text_under_other_ids_is_on_one_side(other: str) -> None:
    sides = {is_held_out(record(text, f"id-{n}"), 0.5) for n in range(40) for text in ("Wann fährt der Zug?", other)}
    assert len(sides) == 1


def test_other_texts_are_on_both_sides() -> None:
    assert {is_held_out(record(f"when does train {n} leave?"), 0.5) for n in range(40)} == {True, False}


def test_answers_and_turns_do_not_matter_but_the_words_do() -> None:
    turns = {
        "prompt": None,
        "messages": [{"role": "user", "content": "when does"}, {"role": "user", "content": "it go"}],
    }
    for fraction in (0.1, 0.3, 0.5, 0.7, 0.9):
        asked = is_held_out(record("when does it go"), fraction)
        assert is_held_out(record("when does it go", completion="never"), fraction) == asked
        assert is_held_out(record("", **turns), fraction) == asked


def test_an_explicit_split_wins() -> None:
    assert is_held_out(record("x", split="test"), 0.0)
    assert not is_held_out(record("x", split="train"), 1.0)


def test_normalised_text_keeps_its_words() -> None:
    assert normalised("Straße  Nr.\u00a0\u2167\n") == "strasse nr. viii"
    assert normalised("a b") != normalised("ab")


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("fährt", "fa\u200d\u0308hrt"),
        ("fährt", "fa\u034f\u0308hrt"),
        ("\u2764 it", "\u2764\ufe0f it"),
        ("葛", "葛\U000e0100"),
        ("ｶﾞ", "ガ"),
        ("İstanbul", "i\u0307stanbul"),
        ("done\u3164", "done"),
    ],
    ids=[
        "joiner before accent",
        "grapheme joiner",
        "emoji style",
        "ideograph form",
        "half width",
        "dotted i",
        "filler",
    ],
)
def test_what_can_not_be_seen_makes_no_other_text(one: str, other: str) -> None:
    assert normalised(one) == normalised(other)
