"""What one worker can't read any more: another has it, or it is lost, and never in silence."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from actors.report import Missing
from serving.api import Stretch
from serving.system_metrics import render_metrics
from tests.actors.scene import P0, Scene


@pytest.fixture
def scene() -> Iterator[Scene]:
    """Worker 0 can't read offsets 2 to 11 any more; 0 to 9 of alpha are counted, 10 and 11 are not."""
    made = Scene(workers=3)
    made.send("alpha", 8, held_out=2)
    made.spools[0].missing = (Missing(P0, 2, 12),)
    yield made
    made.coordinator.stop()


def test_what_nobody_has_is_lost_and_said(scene: Scene) -> None:
    scene.tick()
    assert scene.spools[0].given_up == [(P0, 2, 12)]
    status = scene.coordinator.status()
    (alpha,) = status.domains
    assert alpha.lost == (Stretch(partition="stream[0]", first=2, last=9, rows=8),)
    assert status.unread == (Stretch(partition="stream[0]", first=10, last=11, rows=0),)
    assert (alpha.waiting.train, alpha.waiting.held_out) == (2, 0)
    troubles = dict(status.troubles())
    assert "8 examples in stream[0], offsets 2 to 9" in troubles["alpha lost"]
    assert "offsets 10 to 11" in troubles["stream stream[0]"]
    text = render_metrics(status)
    assert 'anabranch_domain_lost_rows{domain="alpha"} 8.0' in text
    assert 'anabranch_stream_unread_offsets{partition="stream[0]"} 2.0' in text


def test_what_others_hold_is_not_lost(scene: Scene) -> None:
    scene.spools[1].offsets, scene.spools[2].offsets = frozenset({2, 3, 9}), frozenset({4, 30})
    scene.tick()
    (alpha,) = scene.coordinator.status().domains
    assert alpha.lost == (Stretch(partition="stream[0]", first=5, last=8, rows=4),)
    assert alpha.waiting.train == 5


@pytest.mark.parametrize("silent", [1, 2])
def test_nothing_is_given_up_while_a_worker_that_may_have_it_is_silent(scene: Scene, silent: int) -> None:
    scene.spools[silent].away = True
    scene.tick(2)
    assert scene.spools[0].given_up == []
    status = scene.coordinator.status()
    assert status.domains[0].lost == ()
    assert f"ingest-{silent} may hold them and does not answer" in str(status.trouble)
    scene.spools[silent].away = False
    scene.tick()
    assert scene.spools[0].given_up == [(P0, 2, 12)] and scene.coordinator.status().trouble is None


def test_what_another_is_going_to_count_is_waited_for(scene: Scene) -> None:
    scene.spools[1].begins = 10
    scene.tick()
    assert scene.spools[0].given_up == [] and "being counted" in str(scene.coordinator.status().trouble)
    # Once the router has counted up to there, that somebody covers it is no reason to wait.
    scene.send("alpha", 2)
    scene.spools[1].offsets = frozenset(range(2, 12))
    scene.tick()
    assert scene.spools[0].given_up == [(P0, 2, 12)]
    assert scene.coordinator.status().domains[0].lost == () and scene.coordinator.status().unread == ()


def test_what_lies_before_another_ones_rows_is_given_up_as_they_are_not_counted_otherwise(scene: Scene) -> None:
    """Who has read on from 11 can't have it counted while nobody has read 10, and is not asked for that itself."""
    scene.spools[1].begins = 11
    scene.tick()
    assert scene.spools[0].given_up == [(P0, 2, 11)]
    assert scene.coordinator.status().unread == (Stretch(partition="stream[0]", first=10, last=10, rows=0),)


def test_a_coordinator_that_died_after_noting_the_loss_tells_the_worker(scene: Scene) -> None:
    def dies() -> None:
        raise ConnectionError("the worker is being restarted")

    scene.spools[0]._answer, answers = lambda: None, scene.spools[0]._answer  # type: ignore[method-assign]
    give_up = scene.spools[0].give_up
    scene.spools[0].give_up = lambda *_: dies()  # type: ignore[method-assign,assignment]
    scene.tick()
    assert "nor be given up" in str(scene.coordinator.status().trouble)
    scene.spools[0].give_up, scene.spools[0]._answer = give_up, answers  # type: ignore[method-assign]
    scene.start()
    scene.tick()
    assert scene.spools[0].given_up == [(P0, 2, 12)]
    (lost,) = scene.coordinator.status().domains[0].lost
    assert lost.rows == 8


def test_a_version_is_made_of_what_is_left(scene: Scene) -> None:
    scene.mark("alpha")
    scene.tick(2)
    assert [(order.seal.train, order.seal.held_out) for order in scene.learner.orders] == [(2, 0)]


def test_lost_examples_are_not_forgotten_by_a_publication_and_are_by_a_removal(scene: Scene) -> None:
    scene.tick()
    scene.mark("alpha")
    scene.tick(2)
    assert scene.version("alpha") == 1 and scene.coordinator.status().domains[0].lost
    scene.coordinator.remove("alpha")
    assert scene.coordinator.status().domains == ()
