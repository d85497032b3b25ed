"""Words that leave the system: one line, bounded, nothing of the inside; what is for the reader stays."""

import pytest

from serving.api import ReplicaStatus
from serving.wording import MAX_CHARACTERS, plain

DIED = """The actor died unexpectedly before finishing this task.
\tclass_name: CoordinatorActor
\tactor_id: 3f00ab
\tpid: 1234
\tip: 10.0.0.1
The actor is dead because its worker process has died."""
RAISED = """Traceback (most recent call last):
  File "/x/y.py", line 3, in f
    raise ValueError("no rows")
ValueError: no rows in german-dates"""


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("", ""),
        ("\n \n", ""),
        (RAISED, "no rows in german-dates"),
        ("[Errno 28] No space left on device: '/data/home/registry/x'", "[Errno 28] No space left on device: '...'"),
        ("broker kafka-1.internal:9092 and localhost:9093 are away", "broker ... and ... are away"),
        ("kafka://broker:9092/topic does not answer", "... does not answer"),
        ("from 10.0.0.1:80 and [2001:db8::1]:80", "from ... and ..."),
        ("<Thing object at 0x7f12ab34cd56>", "<Thing object at ...>"),
        ("~/models/x and ~root/models/x are missing", "... and ... are missing"),
        ("first\n  second\r\nthird", "first second third"),
        ("a \ud83d b", "a ? b"),
    ],
)
def test_the_inside_is_taken_out(text: str, told: str) -> None:
    assert plain(text) == told


def test_a_dead_actor_is_told_without_its_ids() -> None:
    told = plain(DIED)
    assert "died" in told and not any(inside in told for inside in ("3f00ab", "1234", "10.0", "\n"))


@pytest.mark.parametrize(
    "text",
    [
        "The model `meta-llama/Llama-3` does not exist. Ask /v1/models for those that do.",
        "prompt.0: Input should be a valid integer; and/or 1/2",
        "at 12:30:45, 2021-05-03T12:00:00+02:00",
        "german-dates@v1-1a2b3c4d: 12 of 30 rows",
        "expected {'input': text} got <tool_call></tool_call>",
        "POST /v1/domains/{domain}/pin takes at most 2097152 bytes",
    ],
)
def test_what_is_for_the_reader_stays(text: str) -> None:
    assert plain(text) == text


@pytest.mark.parametrize("unit", ["a/", "1.", "a:", "\n", " ", "x.y-", "(pid=", "~"])
def test_any_length_is_bounded(unit: str) -> None:
    assert len(plain(unit * 1_000_000)) <= MAX_CHARACTERS


def test_a_reason_in_a_status_is_plain() -> None:
    assert ReplicaStatus(manifest=1, fenced=RAISED).fenced == "no rows in german-dates"
