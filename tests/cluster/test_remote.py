"""What comes from another process: errors as they were raised, and parts that are loaded late."""

from __future__ import annotations

import asyncio
import copy
import inspect
import pickle
import re
import threading
from importlib import import_module
from typing import Any, Literal, get_args, get_origin, get_type_hints

import pytest
from ray.exceptions import RayError, RayTaskError

from actors.errors import ActorError, UnknownDomain
from cluster.late import late
from cluster.remote import AsyncRemote, Remote, Unreachable
from tests.conftest import REPOSITORY

PACKAGES = ("actors", "streaming", "learning", "registry", "serving", "configs", "cluster", "console")


_DEFINES_ERRORS = re.compile(r"^class \w+\([\w.]*(?:Error|Exception)\)", re.MULTILINE)


def errors() -> list[type[Exception]]:
    """Every exception class of the packages. Only the modules that define some are imported, which takes no time."""
    found: set[type[Exception]] = set()
    for package in PACKAGES:
        for path in sorted((REPOSITORY / package).rglob("*.py")):
            if _DEFINES_ERRORS.search(path.read_text(encoding="utf-8")):
                module = import_module(".".join(path.relative_to(REPOSITORY).with_suffix("").parts))
                own = [each for each in vars(module).values() if getattr(each, "__module__", "") == module.__name__]
                found |= {each for each in own if isinstance(each, type) and issubclass(each, Exception)}
    return sorted(found, key=lambda each: each.__qualname__)


def made(error: type[Exception]) -> Exception:
    """One of the class, with an argument of its type for each parameter."""
    if error.__init__ is Exception.__init__:
        return error("a message, of one line")
    hints = get_type_hints(error.__init__)
    parameters = [p for p in inspect.signature(error).parameters.values() if p.kind is p.POSITIONAL_OR_KEYWORD]
    return error(*(_argument(hints[parameter.name]) for parameter in parameters))


def _argument(hint: Any) -> Any:
    if get_origin(hint) is Literal:
        return get_args(hint)[0]
    examples = {str: "a text", int: 413, dict: {"error": {"message": "too large"}}}
    return examples.get(get_origin(hint) or hint, [1, 2])


def test_every_error_survives_the_way_to_another_process() -> None:
    classes = errors()
    assert len(classes) > 25
    for each in classes:
        error = made(each)
        arrived = pickle.loads(pickle.dumps(error))
        assert type(arrived) is each and str(arrived) == str(error), each
        assert vars(arrived) == vars(error), each


def peer(outcome: Exception) -> Remote:
    """A remote actor whose call ends so."""

    class Failing(Remote):
        def _look_up(self) -> Any:
            raise outcome

    return Failing("router")


def test_what_the_peer_raised_arrives_and_nothing_of_ray() -> None:
    text = "Traceback (most recent call last):\n  File /srv/x.py\nKeyError: 10.0.0.7"
    lost = RayTaskError("call", text, RayError(text))  # So Ray tells of an error that can't be pickled.
    with pytest.raises(UnknownDomain, match=r"^no such$"):
        peer(RayTaskError("call", text, UnknownDomain("no such"))).remove("x")
    for outcome in (lost, RayTaskError("call", text, None), RayError(text)):
        with pytest.raises(Unreachable) as caught:
            peer(outcome).remove("x")
        assert isinstance(caught.value, ActorError)
        assert not [inside for inside in ("Traceback", "/srv", "10.0.0.7") if inside in str(caught.value)]


async def test_an_actor_is_looked_up_beside_the_event_loop(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ray's head may be away, and then looking up takes as long as it is."""
    back = threading.Event()

    def get_actor(*_: Any, **__: Any) -> Any:
        back.wait(30)
        raise ValueError("no such actor")

    monkeypatch.setattr("ray.get_actor", get_actor)
    asked = asyncio.ensure_future(AsyncRemote.named("coordinator").status())
    for _ in range(3):
        await asyncio.sleep(0)  # Each turn is the loop's: it does not wait for the look-up.
    assert not asked.done() and not back.is_set()
    back.set()
    with pytest.raises(Unreachable, match="coordinator is not running"):
        await asked


def test_a_late_part_whose_priority_can_not_be_lowered_is_loaded_all_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: int) -> None:
        raise PermissionError

    monkeypatch.setattr("os.setpriority", refuse)
    found: list[str] = []
    part = late(lambda: "loaded", yields=True)
    reader = threading.Thread(target=lambda: found.append(part.upper()), daemon=True)
    reader.start()
    reader.join(30)
    assert found == ["LOADED"]


def test_a_late_part_is_not_written_to_and_not_copied() -> None:
    part: Any = late(lambda: Exception("x"))
    with pytest.raises(AttributeError, match="note"):
        part.note = 1
    for duplicate in (copy.deepcopy, pickle.dumps):
        with pytest.raises((TypeError, AttributeError)):
            duplicate(part)
    assert copy.copy(part).args == part.args == ("x",)


def test_a_load_that_failed_is_tried_again_and_says_why() -> None:
    outcomes = iter([OSError("away"), OSError("still away"), "there"])

    def load() -> str:
        outcome = next(outcomes)
        if isinstance(outcome, OSError):
            raise outcome
        return outcome

    part = late(load)
    seen: list[str] = []
    while not seen or seen[-1] != "THERE":
        try:
            seen.append(part.upper())
        except OSError as error:
            seen.append(str(error))
    assert seen[-2:] == ["still away", "THERE"]
