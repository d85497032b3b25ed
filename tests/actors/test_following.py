"""What a worker knows of the ledger: fresh enough, of one router, and never more confirmed than it is."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from actors import following
from actors.coverage import Span
from actors.errors import SpoolAhead
from actors.following import Following
from actors.observation import LedgerView
from actors.spool import Spool
from streaming.source import TopicPartition
from tests.actors.views import view

P0 = TopicPartition("stream", 0)


class Asked:
    """A router that gives the view it was told to, and notes what it was asked with."""

    def __init__(self, *views: LedgerView) -> None:
        self.views, self.known = list(views), list[int]()

    def view(self, known: int = -1) -> LedgerView:
        self.known.append(known)
        return self.views[0] if len(self.views) == 1 else self.views.pop(0)


@pytest.fixture
def now(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The time, as its only entry."""
    moment = [100.0]
    monkeypatch.setattr(following.time, "monotonic", lambda: moment[0])
    return moment


@pytest.fixture
def spool(tmp_path: Path) -> Any:
    made = Spool(tmp_path / "spool.sqlite")
    yield made
    made.close()


def test_it_asks_now_and_then_and_for_fences_only_where_they_may_be_new(spool: Spool, now: list[float]) -> None:
    router = Asked(view(3, fences={}, observed={P0: 7}))
    following = Following(spool, router)  # type: ignore[arg-type]
    for _ in range(3):
        assert following.view().snapshot == 3
    assert router.known == [-1] and following.observed == {P0: 7}
    now[0] += 2.1
    following.view()
    assert router.known == [-1, 3]
    following.ask_again()
    following.view()
    assert router.known == [-1, 3, 3]


def test_another_router_is_asked_for_everything_and_confirms_anew(spool: Spool) -> None:
    again = {"runs": (("first", 1), ("second", 4))}
    router = Asked(
        view(3, fences={}), view(3, run="second", fences=None), view(3, run="second", fences={"alpha": {P0: 2}})
    )
    following = Following(spool, router)  # type: ignore[arg-type]
    following.view()
    following.confirm(P0, 0, 9)
    assert following.confirmed(P0) == 9
    following.ask_again()
    following.view()
    assert router.known == [-1, 3, -1] and following.confirmed(P0) == 0
    following.confirm(P0, 0, 5)
    assert following.confirmed(P0) == 0, "by what the router before said"
    following.look()
    router.views = [view(4, fences={}, **again)]  # type: ignore[arg-type]
    following.confirm(P0, 0, 5)
    following.ask_again()
    following.view()
    assert following.confirmed(P0) == 5, "the same router, further on"


def test_rows_are_confirmed_where_all_before_them_are(spool: Spool) -> None:
    following = Following(spool, Asked(view()))  # type: ignore[arg-type]
    following.confirm(P0, 3, 9)
    assert following.confirmed(P0) == 0
    following.confirm(P0, 0, 4)
    following.confirm(P0, 3, 9)
    assert following.confirmed(P0) == 9
    following.confirm(P0, 0, 5)
    assert following.confirmed(P0) == 9
    with following.reading([Span(P0, 20, 30)]):
        pass
    with following.reading([Span(P0, 6, 20)]):
        pass
    assert following.confirmed(P0) == 6


def test_what_is_read_again_while_rows_are_looked_at_is_not_confirmed_by_that(spool: Spool) -> None:
    following = Following(spool, Asked(view()))  # type: ignore[arg-type]
    following.look()
    with following.reading([Span(P0, 5, 9)]):
        pass
    following.confirm(P0, 0, 9)
    assert following.confirmed(P0) == 5
    following.look()
    following.confirm(P0, 5, 9)
    assert following.confirmed(P0) == 9


def test_a_spool_that_is_ahead_stops_its_worker_until_that_is_mended(spool: Spool) -> None:
    spool.follow(view(5, fences={}))
    router = Asked(view(4, fences={}))
    following = Following(spool, router)  # type: ignore[arg-type]
    for _ in range(2):
        with pytest.raises(SpoolAhead):
            following.view()
    assert router.known == [-1, -1]
    router.views = [view(5, fences={})]
    assert following.view().snapshot == 5
