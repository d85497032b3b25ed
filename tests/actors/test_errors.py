"""An error in words: one line that a person can be shown."""

from __future__ import annotations

import pytest

from actors.errors import NotCaughtUp, in_words

TRACEBACK = """ray::CoordinatorActor.remove() (pid=812, ip=10.0.3.7, actor_id=ab)
Traceback (most recent call last):
  File "/srv/app/actors/coordinator.py", line 12, in remove
    raise UnknownDomain(name)
actors.errors.UnknownDomain: domain 'NOPE' is not known"""


class Remote(Exception):
    cause = NotCaughtUp("the router is behind")


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (RuntimeError("the worker died"), "the worker died"),
        (KeyError("x"), "KeyError: 'x'"),
        (TimeoutError(), "TimeoutError"),
        (RuntimeError("two\n  lines\tof it"), "two lines of it"),
        (RuntimeError(TRACEBACK), "actors.errors.UnknownDomain: domain 'NOPE' is not known"),
        (Remote(TRACEBACK), "the router is behind"),
        (
            OSError(28, "No space left", "/srv/home/spool/ingest-0.sqlite"),
            "[Errno 28] No space left: 'ingest-0.sqlite'",
        ),
        (ConnectionError("no answer from 10.0.3.7:9092 yet"), "no answer from ... yet"),
        (RuntimeError("<Actor object at 0x7f6784aff380> is gone"), "<Actor object at ...> is gone"),
        (RuntimeError("3/4 of a/b is fine, see https://host/docs/x"), "3/4 of a/b is fine, see https://host/docs/x"),
    ],
)
def test_one_line(error: Exception, said: str) -> None:
    assert in_words(error) == said


def test_it_is_bounded() -> None:
    assert len(in_words(RuntimeError("many words " * 10_000))) == 300
