"""The router: every row counted once, whatever is sent again, sealed before it is learned, and lost out loud."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest

from actors.errors import ActorError, NotCaughtUp, OtherHome, UnknownDomain
from actors.home import take_log
from actors.ledger import Ledger
from actors.observation import Loss, Marker, Seal
from actors.router import Router
from learning.errors import FingerprintMismatch, LearningError
from registry.adapters import Adapter
from registry.registry import Registry
from streaming.source import TopicPartition
from tests.actors.router_rows import P0, P1, keys, learned, observation, of, seal_and_publish

# -- counting ---------------------------------------------------------------------------------------------------------


def test_an_observation_is_applied_once(start: Callable[[], Router]) -> None:
    router = start()
    block = observation({P0: (0, 3)}, of("alpha", range(2)), of("alpha", [2]))
    receipt = router.observe(block)
    assert (receipt.applied, dict(receipt.observed)) == (True, {P0: 3})
    assert (router.counts(), router.examples()) == ({"alpha": 2}, {"alpha": 3})
    again = router.observe(block)
    assert (again.applied, dict(again.observed)) == (False, {P0: 3})
    assert (router.counts(), router.examples()) == ({"alpha": 2}, {"alpha": 3})


@pytest.mark.parametrize("span", [(0, 4), (2, 4), (4, 6), (0, 3)], ids=["stale", "overlapping", "ahead", "repeated"])
def test_a_span_that_does_not_start_where_the_router_stands_is_refused(
    start: Callable[[], Router], span: tuple[int, int]
) -> None:
    router = start()
    router.observe(observation({P0: (0, 3)}, of("alpha", range(3))))
    receipt = router.observe(observation({P0: span, P1: (0, 1)}, of("beta", range(2))))
    assert (receipt.applied, dict(receipt.observed)) == (False, {P0: 3})
    assert router.counts() == {"alpha": 3}, "a block is applied whole or not at all"


def test_no_partition_begins_in_its_middle(start: Callable[[], Router]) -> None:
    """A router that lost all it knew must not take up where a worker remembers it to have been."""
    router = start()
    receipt = router.observe(observation({P0: (150, 160)}, of("alpha", range(3))))
    assert (receipt.applied, dict(receipt.observed)) == (False, {})
    assert router.counts() == {}


def test_a_block_with_an_example_that_was_counted_elsewhere_is_refused(start: Callable[[], Router]) -> None:
    router = start()
    router.observe(observation({P0: (0, 3)}, of("alpha", [0, 1]), of("alpha", [2])))
    rows = [*of("alpha", [1, 2, 5]), ("beta", 1)]
    assert router.fates(keys(rows, 0, P1)) == ("gone", "gone", "new", "new")
    assert not router.observe(observation({P1: (0, 4)}, rows)).applied
    assert (router.counts(), dict(router.observed())) == ({"alpha": 2}, {P0: 3})
    assert router.observe(observation({P1: (0, 4)}, [("alpha", 5), ("beta", 1)])).applied
    assert router.counts() == {"alpha": 3, "beta": 1}


def test_an_example_twice_in_one_block_is_refused(start: Callable[[], Router]) -> None:
    router = start()
    assert not router.observe(observation({P0: (0, 3)}, of("alpha", [0, 1, 0]))).applied
    assert router.counts() == {}


def test_a_block_without_training_rows_is_remembered(start: Callable[[], Router]) -> None:
    router = start()
    assert router.observe(observation({P0: (0, 2)}, [], of("alpha", [0]))).applied
    assert (router.counts(), router.examples(), dict(router.observed())) == ({}, {"alpha": 1}, {P0: 2})
    assert router.fates(keys(of("alpha", [0]), 2)) == ("gone",)


def test_other_features_are_refused_and_change_nothing(start: Callable[[], Router]) -> None:
    router = start()
    router.observe(observation({P0: (0, 1)}, of("alpha", [0])))
    with pytest.raises(FingerprintMismatch):
        router.observe(observation({P0: (1, 2)}, of("alpha", [1]), fingerprint="g"))
    assert (router.counts(), router.examples(), dict(router.observed())) == ({"alpha": 1}, {"alpha": 1}, {P0: 1})


@pytest.mark.parametrize("value", [1e200, -2e6, float("nan")])
def test_an_absurd_block_is_refused_and_decides_nothing_for_those_behind_it(
    start: Callable[[], Router], value: float
) -> None:
    """The first block settles which features the sums are of, unless it is refused."""
    router = start()
    block = observation({P0: (0, 1)}, of("alpha", [0]), fingerprint="g")
    assert block.statistics is not None and block.statistics.rows_ND is not None
    absurd = replace(block.statistics, rows_ND=value * block.statistics.rows_ND)
    with pytest.raises(LearningError, match="spoil the router"):
        router.observe(replace(block, statistics=absurd))
    assert (router.counts(), router.examples(), dict(router.observed())) == ({}, {}, {})
    assert router.observe(observation({P0: (0, 1)}, of("alpha", [0]))).applied
    assert (router.counts(), router.examples(), dict(router.observed())) == ({"alpha": 1}, {"alpha": 1}, {P0: 1})


def test_rows_that_the_statistics_do_not_hold_are_refused(start: Callable[[], Router]) -> None:
    router = start()
    block = observation({P0: (0, 2)}, of("alpha", [0]))
    with pytest.raises(ActorError, match="hold"):
        router.observe(replace(block, rows=tuple(keys(of("alpha", [0, 1])))))
    assert (router.counts(), router.examples()) == ({}, {})


def test_what_fails_halfway_is_read_back(
    start: Callable[[], Router], add: Callable[..., Adapter], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Sums that have taken a block in without the ledger would count it twice."""
    router = start()
    router.observe(observation({P0: (0, 2)}, of("alpha", range(2))))
    seal_and_publish(router, add("alpha"))
    with monkeypatch.context() as patch:
        patch.setattr(Ledger, "apply", _no_memory)
        with pytest.raises(MemoryError):
            router.observe(observation({P0: (2, 4)}, of("beta", range(2))))
    assert (router.counts(), dict(router.observed())) == ({"alpha": 2}, {P0: 2})
    assert router.observe(observation({P0: (2, 4)}, of("beta", range(2)))).applied
    assert router.counts() == {"alpha": 2, "beta": 2}


def _no_memory(*_: object) -> None:
    raise MemoryError


def test_another_log_is_refused_until_it_is_taken(start: Callable[[], Router], registry: Registry) -> None:
    router = start()
    router.observe(replace(observation({P0: (0, 2)}, of("alpha", range(2))), logs={"stream": "one"}))
    router.seal("alpha", 1, {P0: 2})
    with pytest.raises(OtherHome, match=r"expected identity one, got two.*take-log"):
        router.observe(replace(observation({P0: (2, 3)}, of("alpha", [2])), logs={"stream": "two"}))
    counted, reached = take_log(registry, "stream")
    assert "2 examples" in counted and "stream[0] 2" in reached
    router = start()
    assert (router.counts(), dict(router.observed())) == ({"alpha": 2}, {})
    former = TopicPartition("stream (log 1)", 0)
    assert router.open()["alpha"].lost == (Loss(former, 0, 1, 2),) and router.view().taken == {"stream": 1}
    again = replace(observation({P0: (0, 3)}, of("alpha", [2]), found=of("alpha", range(2))), logs={"stream": "two"})
    assert router.observe(again).applied
    assert (router.counts(), router.open()["alpha"].train, router.open()["alpha"].lost) == ({"alpha": 3}, 3, ())


def test_a_version_that_is_learned_is_published_though_its_log_is_another_by_then(
    start: Callable[[], Router], registry: Registry, add: Callable[..., Adapter]
) -> None:
    router = start()
    router.observe(observation({P0: (0, 4)}, of("alpha", range(3)), of("alpha", [3])))
    router.seal("alpha", 1, {P0: 4})
    router.observe(observation({P0: (4, 6)}, of("alpha", [4]), of("beta", [0])))
    adapter = add("alpha")
    counted, reached = take_log(registry, "stream")
    assert "0 examples" in counted and "stream[0] 4" in reached, "nothing was committed but what is sealed"
    router = start()
    assert router.observe(observation({P0: (0, 2)}, of("alpha", [5, 6]))).applied
    assert router.open()["alpha"].train == 5
    router.publish(learned(adapter))
    alpha = router.open()["alpha"]
    assert (alpha.train, alpha.held_out, alpha.seal, alpha.lost) == (2, 0, None, ())
    assert router.fates([*keys(of("alpha", [0]), 9), *keys(of("alpha", [5]), 0)]) == ("gone", "counted")


# -- sealing ----------------------------------------------------------------------------------------------------------


def test_a_seal_outlives_the_router(start: Callable[[], Router]) -> None:
    router = start()
    router.observe(observation({P0: (0, 4)}, of("alpha", range(3)), of("alpha", [3])))
    seal = router.seal("alpha", 1, {P0: 4})
    assert (seal, router.seal("alpha", 1, {P0: 4})) == (Seal(1, {P0: 4}, 3, 1), seal)
    router.observe(observation({P0: (4, 6)}, of("alpha", [4, 5])))
    assert router.seal("alpha", 2, {P0: 6}) == seal, "what is sealed is learned before more is"
    router = start()
    assert router.open()["alpha"].seal == seal
    assert (router.counts(), dict(router.observed())) == ({"alpha": 3}, {P0: 4})


def test_sealing_waits_for_what_is_not_counted_yet(start: Callable[[], Router]) -> None:
    router = start()
    router.observe(observation({P0: (0, 3)}, of("alpha", range(3))))
    for until in ({P0: 4}, {P0: 3, P1: 1}):
        with pytest.raises(NotCaughtUp, match="behind"):
            router.seal("alpha", 1, until)
    with pytest.raises(UnknownDomain, match="no example to train on"):
        router.seal("beta", 1, {P0: 3})


def test_a_rejected_version_leaves_its_rows_to_the_next(start: Callable[[], Router]) -> None:
    router = start()
    router.observe(observation({P0: (0, 3)}, of("alpha", range(3))))
    router.seal("alpha", 1, {P0: 3})
    router.reopen("alpha", 1)
    described = router.open()["alpha"]
    assert (described.train, described.fresh, described.seal) == (3, 0, None)
    router.observe(observation({P0: (3, 5)}, of("alpha", [3]), of("alpha", [4])))
    assert (router.open()["alpha"].train, router.open()["alpha"].fresh) == (4, 2)
    router.reopen("alpha", 7)
    assert router.seal("alpha", 2, {P0: 5}) == Seal(2, {P0: 5}, 4, 1)


def test_only_rows_before_a_marker_can_be_closed_by_it(start: Callable[[], Router]) -> None:
    router = start()
    block = observation({P0: (0, 5)}, of("alpha", range(2)))
    router.observe(replace(block, markers=(Marker(P0, 2, "alpha"), Marker(P0, 3, "beta"))))
    router.observe(observation({P0: (5, 7)}, of("alpha", [2, 3])))
    opened = router.open()
    assert (opened["alpha"].markers, opened["alpha"].fresh, opened["alpha"].closable) == ({P0: 2}, 4, 2)
    assert (opened["beta"].markers, opened["beta"].train) == ({P0: 3}, 0)
    router.drop_markers("beta", {P0: 3})
    assert "beta" not in router.open()
    router.seal("alpha", 1, {P0: 3})
    assert (router.open()["alpha"].markers, router.open()["alpha"].fresh) == ({}, 2)


# -- losses -----------------------------------------------------------------------------------------------------------


def test_what_nobody_can_read_any_more_is_named_and_taken_when_it_comes_again(
    start: Callable[[], Router], registry: Registry
) -> None:
    router = start()
    router.observe(observation({P0: (0, 5)}, of("alpha", range(4)), of("alpha", [4])))
    assert {each: offsets.tolist() for each, offsets in router.open_offsets().items()} == {P0: [0, 1, 2, 3, 4]}
    router.lose({P0: [1, 3, 4, 7], P1: [0]}, ())
    before = registry.head()
    router.lose({P0: [1, 3, 4, 7]}, ())
    assert registry.head() == before, "said twice, it is lost once"
    router = start()
    described = router.open()["alpha"]
    assert (described.train, described.held_out, described.lost) == (2, 0, (Loss(P0, 1, 4, 3),))
    assert {each: offsets.tolist() for each, offsets in router.open_offsets().items()} == {P0: [0, 2]}
    assert router.fates([*keys(of("alpha", [1]), 1), *keys(of("alpha", [1]), 9)]) == ("gone", "lost")
    assert router.observe(observation({P0: (5, 10)}, of("alpha", [7]), found=of("alpha", [1]))).applied
    assert (router.counts(), router.open()["alpha"].train) == ({"alpha": 5}, 4)
    assert router.open()["alpha"].lost == (Loss(P0, 3, 4, 2),)


def test_an_example_keeps_its_side_of_the_exam(start: Callable[[], Router]) -> None:
    """Its side is where it was counted: in the sums or not. What the sender, or a setting, says later is another."""
    router = start()
    router.observe(observation({P0: (0, 2)}, of("alpha", [0]), of("alpha", [1])))
    train, held_out = of("alpha", [0]), of("alpha", [1])
    assert router.fates([*keys(train, 0), *keys(held_out, 1)]) == ("counted", "turned")
    assert router.fates([*keys(train, 0, held_out=True), *keys(held_out, 1, held_out=True)]) == ("turned", "counted")
    router.lose({P0: [0, 1]}, ())
    assert router.fates([*keys(train, 5), *keys(held_out, 6)]) == ("lost", "turned")
    assert router.fates([*keys(train, 5, held_out=True), *keys(held_out, 6, held_out=True)]) == ("turned", "lost")
    assert not router.observe(observation({P0: (2, 4)}, (), found=held_out)).applied, "not turned, it is not taken"
    assert router.observe(observation({P0: (2, 4)}, (), found=train)).applied
    assert (router.counts(), router.open()["alpha"].train) == ({"alpha": 1}, 1)


def test_what_is_sealed_is_lost_only_where_no_version_is_made_of_it(
    start: Callable[[], Router], add: Callable[..., Adapter]
) -> None:
    """Trained and then lost, a row is settled by the publication: sent again it must not be trained a second time."""
    router = start()
    router.observe(observation({P0: (0, 4)}, of("alpha", range(3)), of("alpha", [3])))
    seal = router.seal("alpha", 1, {P0: 4})
    router.lose({P0: [0, 3]}, ["beta"])
    assert (router.open()["alpha"].seal, router.open()["alpha"].lost) == (seal, ())
    router.publish(learned(add("alpha")))
    assert router.fates(keys(of("alpha", [0]), 9)) == ("gone",)
    # Of the next version nothing is trained yet: it is made of what is left.
    router.observe(observation({P0: (4, 7)}, of("alpha", [4, 5]), of("alpha", [6])))
    router.seal("alpha", 2, {P0: 7})
    router.lose({P0: [4, 6]}, ["alpha"])
    router = start()
    assert router.open()["alpha"].seal == Seal(2, {P0: 7}, 1, 0)
    assert router.open()["alpha"].lost == (Loss(P0, 4, 6, 2),)


def test_a_seal_of_which_nothing_is_left_is_dropped(start: Callable[[], Router]) -> None:
    router = start()
    router.observe(observation({P0: (0, 3)}, of("alpha", range(2)), of("alpha", [2])))
    router.seal("alpha", 1, {P0: 3})
    router.lose({P0: [0, 1]}, ["alpha"])
    assert (router.open()["alpha"].seal, router.open()["alpha"].held_out) == (None, 1)


def test_what_was_counted_of_a_stretch_that_is_skipped_is_durable(start: Callable[[], Router]) -> None:
    """Its reader takes it for read: a router that stood before it would take that for nothing to be counted."""
    router = start()
    router.observe(observation({P0: (0, 4)}, of("alpha", range(4))))
    router.skip(P0, 0, 3)
    assert router.unread() == ()
    router = start()
    assert (router.observed(), router.counts()) == ({P0: 4}, {"alpha": 4})


def test_unread_stretches_that_touch_are_one(start: Callable[[], Router]) -> None:
    router = start()
    for first, end in ((0, 4), (6, 9), (4, 6), (2, 7)):
        router.skip(P0, first, end)
    assert start().unread() == (Loss(P0, 0, 8, 0),)


def test_what_is_given_up_is_lost_and_fenced_off_and_taken_when_it_comes_again(start: Callable[[], Router]) -> None:
    router = start()
    router.observe(observation({P0: (0, 4), P1: (0, 2)}, of("alpha", range(3)), of("alpha", [3])))
    router.observe(observation({P0: (4, 6)}, of("beta", range(2))))
    router.seal("alpha", 1, {P0: 4, P1: 2})
    router.give_up("alpha", {P0: 6})
    assert router.open()["alpha"].seal is not None, "what is sealed is not given up"
    router.reopen("alpha", 1)
    router.observe(observation({P0: (6, 7)}, of("alpha", [9])))
    router.give_up("alpha", {P0: 6})
    router = start()
    alpha = router.open()["alpha"]
    assert (alpha.train, alpha.held_out, alpha.lost) == (1, 0, (Loss(P0, 0, 3, 4),))
    view = router.view()
    assert view.fences == {"alpha": {P0: 6}} and view.low == {P0: 4, P1: 2}
    assert router.fates([*keys(of("alpha", [0]), 0), *keys(of("alpha", [0]), 7)]) == ("gone", "lost")
    assert (router.counts(), router.open()["beta"].train) == ({"alpha": 4, "beta": 2}, 2)
