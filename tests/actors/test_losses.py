"""What can be read nowhere any more: a worker has it, or it is lost, and never in silence."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from registry.adapters import Adapter
from registry.disk import Disk
from registry.storage import Place
from serving.api import Stretch
from serving.system_metrics import render_metrics
from tests.actors.clock import skew
from tests.actors.scene import P0, Scene


@pytest.fixture
def scene() -> Iterator[Scene]:
    """Worker 0 has only 0 and 1 and can read from 12 on; 0 to 9 of alpha are counted, 10 and 11 are not."""
    made = Scene(workers=3)
    made.send("alpha", 8, held_out=2)
    for spool in made.spools:
        spool.holds = ()
    made.spools[0].holds, made.spools[0].read, made.spools[0].begins = (0, 1), ((0, 2),), 12
    yield made
    made.coordinator.stop()


def look(scene: Scene) -> None:
    """Have the coordinator look again, however little time has passed."""
    scene.coordinator._losses._look_at = 0.0
    scene.tick()


def lost(first: int, last: int, rows: int) -> Stretch:
    return Stretch(partition="stream[0]", first=first, last=last, rows=rows)


def test_what_nobody_has_is_lost_and_said(scene: Scene) -> None:
    scene.tick()
    assert scene.spools[0].given_up == [(P0, 10, 12)]
    status = scene.coordinator.status()
    (alpha,) = status.domains
    assert alpha.lost == (lost(2, 9, 8),) and status.unread == (lost(10, 11, 0),)
    assert (alpha.waiting.train, alpha.waiting.held_out) == (2, 0)
    troubles = dict(status.troubles())
    assert "8 examples in stream[0], offsets 2 to 9" in troubles["alpha lost"]
    assert "offsets 10 to 11" in troubles["stream stream[0]"]
    text = render_metrics(status)
    assert 'anabranch_domain_lost_rows{domain="alpha"} 8.0' in text
    assert 'anabranch_stream_unread_offsets{partition="stream[0]"} 2.0' in text


def test_what_others_hold_is_lost_once_they_lose_it_too(scene: Scene) -> None:
    scene.spools[1].holds, scene.spools[2].holds = (2, 3, 9), (4, 30)
    scene.tick()
    (alpha,) = scene.coordinator.status().domains
    assert alpha.lost == (lost(5, 8, 4),) and alpha.waiting.train == 5
    scene.spools[1].holds = (2,)
    look(scene)
    (alpha,) = scene.coordinator.status().domains
    assert alpha.lost == (lost(3, 9, 6),) and alpha.waiting.train == 4


def test_what_was_read_again_and_is_not_there_is_lost(scene: Scene) -> None:
    """The log was compacted, or a setting refuses by now what it took before."""
    scene.spools[0].begins, scene.spools[0].read, scene.spools[0].holds = 0, ((0, 7), (10, 11)), (0, 1, 5, 6)
    scene.tick()
    assert scene.coordinator.status().domains[0].lost == (lost(2, 4, 3),)
    assert scene.spools[0].given_up == [] and scene.coordinator.status().unread == ()


@pytest.mark.parametrize("begins", [None, 0])
def test_what_its_reader_may_come_to_again_is_not_lost(scene: Scene, begins: int | None) -> None:
    scene.spools[0].begins = begins
    scene.tick()
    status = scene.coordinator.status()
    assert status.domains[0].lost == () and status.unread == () and scene.spools[0].given_up == []


def test_while_two_read_a_partition_both_must_have_passed_it(scene: Scene) -> None:
    scene.spools[2].begins, scene.spools[2].read = 5, ((5, 8),)
    scene.tick()
    assert scene.coordinator.status().domains[0].lost == (lost(2, 7, 6),)


@pytest.mark.parametrize("silent", [1, 2])
def test_nothing_is_given_up_while_a_worker_that_may_have_it_is_silent(scene: Scene, silent: int) -> None:
    scene.spools[silent].away = True
    scene.tick(2)
    assert scene.spools[0].given_up == []
    status = scene.coordinator.status()
    assert status.domains[0].lost == ()
    assert f"ingest-{silent} may hold them and does not answer" in str(status.trouble)
    scene.spools[silent].away = False
    look(scene)
    assert scene.spools[0].given_up == [(P0, 10, 12)] and scene.coordinator.status().trouble is None


def test_what_another_is_going_to_count_is_waited_for(scene: Scene) -> None:
    scene.spools[1].read = ((10, 12),)
    scene.tick()
    assert scene.spools[0].given_up == [] and "being counted" in str(scene.coordinator.status().trouble)
    # Once the router has counted up to there, nothing keeps it from going on.
    scene.send("alpha", 2)
    scene.spools[1].holds = range(2, 12)
    look(scene)
    status = scene.coordinator.status()
    assert status.trouble is None and status.unread == ()
    assert status.domains[0].lost == (lost(2, 9, 8),), "what it held not yet at the first look"


def test_what_lies_before_another_ones_rows_is_given_up_as_they_are_not_counted_otherwise(scene: Scene) -> None:
    """Who has read on from 11 can't have it counted while nobody has read 10, and is not asked for that itself."""
    scene.spools[1].read = ((11, 12),)
    scene.tick()
    assert scene.spools[0].given_up == [(P0, 10, 11)]
    assert scene.coordinator.status().unread == (lost(10, 10, 0),)


def test_a_coordinator_that_died_after_noting_a_loss_tells_the_worker(scene: Scene) -> None:
    def dies(*_: object) -> None:
        raise ConnectionError("the worker is being restarted")

    give_up = scene.spools[0].give_up
    scene.spools[0].give_up = dies  # type: ignore[method-assign]
    scene.tick()
    assert "nor be given up" in str(scene.coordinator.status().trouble)
    scene.spools[0].give_up = give_up  # type: ignore[method-assign]
    scene.start()
    scene.tick()
    assert scene.spools[0].given_up == [(P0, 10, 12)]
    assert scene.coordinator.status().domains[0].lost == (lost(2, 9, 8),)


def test_what_can_not_be_noted_is_said_and_tried_again(scene: Scene) -> None:
    def full(name: str) -> None:
        if name == "lose":
            raise OSError("no space left on device")

    scene.router.on_call = full
    scene.tick()
    assert "what is lost can't be noted: " in str(scene.coordinator.status().trouble)
    scene.router.on_call = lambda _name: None
    look(scene)
    assert scene.coordinator.status().trouble is None and scene.coordinator.status().domains[0].lost


def test_a_version_is_made_of_what_is_left(scene: Scene) -> None:
    scene.mark("alpha")
    scene.tick(2)
    assert [(order.seal.train, order.seal.held_out) for order in scene.learner.orders] == [(2, 0)]


def test_a_version_is_made_of_what_is_left_though_later_ones_lie_there(scene: Scene) -> None:
    """Somebody went back to before they were made, and the one that is sealed is not there any more: it is made of what
    is left, under the next number, as it will be newer than they are."""
    scene.spools[1].holds = range(2, 10)
    scene.mark("alpha")
    scene.learner.fails = [ConnectionError("the learner is away")]
    scene.tick()
    assert [order.seal.version for order in scene.learner.orders] == [1]
    later = Adapter("alpha@v3-00000000", "alpha", 3, Place(Disk(Path("nowhere")), "alpha"), "0" * 64, None)  # type: ignore[arg-type]
    scene.registry.versions[later.name] = later
    scene.spools[1].holds = ()
    skew.skip(700.0)
    scene.tick(2)
    assert [(order.seal.version, order.seal.train) for order in scene.learner.orders] == [(1, 8), (4, 2)]


def test_rows_of_a_version_that_is_learned_are_not_lost(scene: Scene) -> None:
    """Its learner has them: published, they are settled, however many spools have lost them since."""
    scene.spools[1].holds = range(2, 10)
    scene.mark("alpha")

    def lose() -> None:
        scene.learner.before = lambda: None
        scene.spools[1].holds = ()
        scene.coordinator._losses._look_at = 0.0
        scene.coordinator.tick()

    scene.learner.before = lose
    scene.tick(3)
    assert [(order.seal.train, order.seal.held_out) for order in scene.learner.orders] == [(8, 2)]
    assert scene.version("alpha") == 1 and scene.coordinator.status().domains[0].lost == ()


def test_lost_examples_are_not_forgotten_by_a_publication_and_are_by_a_removal(scene: Scene) -> None:
    scene.tick()
    scene.mark("alpha")
    scene.tick(2)
    assert scene.version("alpha") == 1 and scene.coordinator.status().domains[0].lost
    scene.coordinator.remove("alpha")
    assert scene.coordinator.status().domains == ()
