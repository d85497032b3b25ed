"""One domain never stops another: what is rejected rests, what crowds a spool makes room, turns go round."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from pathlib import Path

import pytest

from actors.errors import UnknownDomain
from learning.errors import LearningError
from streaming.records import EndOfDomain, TaskRecord
from tests.actors.clock import skew
from tests.actors.house import House, HouseParts, limits, records_of, training
from tests.actors.memory_log import MemoryStream
from tests.actors.scene import P0, P1, Scene
from tests.actors.standins import HashFeatures, PlainTemplate, RecordingLearner

MINUTE = 60.0


@pytest.fixture
def scene() -> Iterator[Scene]:
    made = Scene()
    yield made
    made.coordinator.stop()


def trained(scene: Scene, domain: str = "junk") -> list[int]:
    """How many rows each training of a domain was given."""
    return [each.seal.train + each.seal.held_out for each in scene.learner.orders if each.domain == domain]


def detail(scene: Scene, domain: str = "junk") -> str:
    return next(each.detail for each in scene.coordinator.domains() if each.domain == domain)


# -- what is rejected rests -------------------------------------------------------------------------------------------


def test_a_domain_that_is_never_accepted_is_trained_on_few_times_its_rows(scene: Scene) -> None:
    """Marked after every ten rows for as long as no pause ends."""
    scene.learner.rejects = 10**6
    for _ in range(64):
        scene.send("junk", 8, held_out=2)
        scene.mark("junk")
        scene.tick(2)
    assert trained(scene) == [10, 20, 40, 80, 160, 320, 640]
    assert sum(trained(scene)) <= 2 * 640


def test_a_rest_is_said_and_ends_by_time_too(scene: Scene) -> None:
    scene.learner.rejects = 10**6
    scene.learn("junk", 100)
    assert "rests for 60 s or until 100 new examples are complete" in detail(scene)
    scene.learn("junk", 5)
    assert trained(scene) == [100]
    skew.skip(MINUTE)
    scene.tick(2)
    assert trained(scene) == [100, 105]
    assert "rests for 120 s or until 105 new" in detail(scene)


def test_rests_grow_to_a_longest_and_never_to_for_ever(scene: Scene) -> None:
    """A row and a marker every minute, for ten days."""
    scene.learner.rejects = 10**6
    scene.learn("junk", 10**4)
    times, begun = [], 0.0
    for _ in range(10 * 24 * 60):
        skew.skip(MINUTE)
        begun += MINUTE
        before = len(scene.learner.orders)
        if begun % 3600 == 0 or begun < 3600:
            scene.send("junk", 1)
            scene.mark("junk")
            scene.tick()
        if len(scene.learner.orders) > before:
            times.append(begun)
    pauses = [later - sooner for sooner, later in itertools.pairwise(times)]
    assert max(pauses) <= 7 * 3600 and pauses[-1] >= 6 * 3600, "four a day in the end"
    assert len(times) <= 10 + 10 * 4 + 10


def test_an_accepted_version_ends_it(scene: Scene) -> None:
    scene.learner.rejects = 1
    scene.learn("late", 8)
    scene.learn("late", 8)
    assert scene.version("late") == 2 and trained(scene, "late") == [8, 16]
    scene.learn("late", 1)
    assert scene.version("late") == 3, "one more example is trained on at once again"


def test_what_the_method_refuses_is_not_tried_at_every_marker_either(scene: Scene) -> None:
    scene.learner.fails = [LearningError("no example fits")] * 10**3
    for _ in range(16):
        scene.send("junk", 10)
        scene.mark("junk")
        scene.tick(2)
    assert trained(scene) == [10, 20, 40, 80, 160]
    assert "or when 160 new examples are complete" in detail(scene)


def test_a_coordinator_that_begins_anew_does_not_begin_with_what_was_rejected(scene: Scene) -> None:
    scene.learner.rejects = 10**6
    scene.learn("junk", 40)
    scene.start()
    scene.learn("junk", 8)
    assert trained(scene) == [40] and "its last version was rejected; rests for 60 s" in detail(scene)
    skew.skip(MINUTE)
    scene.tick(2)
    assert trained(scene) == [40, 48]


def test_a_person_ends_a_rest_and_closes_what_is_open(scene: Scene) -> None:
    scene.learner.rejects = 2
    scene.learn("junk", 100)
    scene.tick(3)
    scene.coordinator.learn("junk")
    scene.tick()
    assert trained(scene) == [100, 100], "with nothing new too: whoever asks may have mended something"
    assert "rests for 120 s" in detail(scene)
    scene.coordinator.learn("junk")
    scene.tick(2)
    assert scene.version("junk") == 3
    scene.send("open", 4)
    scene.tick(2)
    assert scene.version("open") is None
    asked = scene.coordinator.learn("open")
    scene.tick()
    assert scene.version("open") == 1 and "4 examples" in asked.reason
    with pytest.raises(UnknownDomain, match="no example to train on"):
        scene.coordinator.learn("open")


def test_a_person_ends_the_pause_of_what_was_refused(scene: Scene) -> None:
    scene.learner.fails = [LearningError("no example fits")]
    scene.learn("junk", 10)
    scene.tick(2)
    assert scene.version("junk") is None
    scene.coordinator.learn("junk")
    scene.tick(2)
    assert scene.version("junk") == 1 and trained(scene) == [10, 10]


def test_what_rests_keeps_nobody_else(scene: Scene) -> None:
    scene.learner.rejects = 1
    scene.learn("junk", 8)
    scene.learn("alpha", 3)
    assert scene.version("alpha") == 1


# -- shares of a spool ------------------------------------------------------------------------------------------------


def crowd(scene: Scene, worker: int, rows: dict[str, int], *over: str) -> None:
    """Have a worker report what lies in its spool, and which domains take more than their share."""
    spool = scene.spools[worker]
    spool.rows, spool.over_share, spool.reaches = rows, frozenset(over), {P0 if worker == 0 else P1: 10**6}


def test_a_domain_over_its_share_is_learned_early(scene: Scene) -> None:
    scene.send("flood", 30)
    scene.send("trickle", 2)
    crowd(scene, 0, {"flood": 30, "trickle": 2}, "flood")
    scene.tick()
    assert scene.version("flood") == 1 and scene.version("trickle") is None


def test_alone_it_may_have_the_whole_spool(scene: Scene) -> None:
    scene.send("flood", 30)
    crowd(scene, 0, {"flood": 30}, "flood")
    scene.tick()
    assert scene.version("flood") is None and scene.learner.orders == []


def test_what_rests_over_its_share_is_given_up_by_name_and_only_there(scene: Scene) -> None:
    scene.learner.rejects = 1
    scene.send("junk", 30, to=P0)
    scene.send("junk", 12, to=P1)
    scene.mark("junk")
    scene.tick(2)
    scene.send("junk", 5, to=P0)
    scene.send("trickle", 2)
    crowd(scene, 0, {"junk": 35, "trickle": 2}, "junk")
    crowd(scene, 1, {"junk": 12})
    scene.tick()
    junk = scene.router.open()["junk"]
    assert (junk.train, [(loss.partition, loss.rows) for loss in junk.lost]) == (12, [(P0, 35)])
    assert scene.router.open()["trickle"].train == 2
    assert dict(scene.coordinator.status().troubles()).keys() == {"junk lost"}
    # What comes after is counted, also while the worker still has what was given up, and its rest goes on.
    scene.send("junk", 3, to=P0)
    scene.mark("junk")
    scene.tick(2)
    assert trained(scene) == [42] and scene.router.open()["junk"].train == 15


def test_what_is_learned_over_its_share_is_waited_for(scene: Scene) -> None:
    """Nothing of it is lost: its training ends."""
    scene.send("flood", 30)
    scene.mark("flood")
    scene.send("trickle", 2)
    crowd(scene, 0, {"flood": 60, "trickle": 2}, "flood")
    scene.spools[0].full = True

    def look() -> None:
        scene.learner.before = lambda: None
        scene.send("flood", 30)
        scene.coordinator.tick()

    scene.learner.before = look
    scene.tick(2)
    rest = scene.router.open().get("flood")
    assert scene.version("flood") is not None and (rest is None or rest.lost == ())


def test_a_failure_that_is_no_fault_of_the_domain_costs_it_nothing(scene: Scene) -> None:
    scene.learner.fails = [ConnectionError("the learner is being restarted")] * 100
    scene.learn("flood", 30)
    scene.send("trickle", 2)
    crowd(scene, 0, {"flood": 30, "trickle": 2}, "flood")
    for _ in range(50):
        skew.skip(MINUTE)
        scene.tick()
    assert scene.router.open()["flood"].train == 30 and not scene.router.open()["flood"].lost


def test_what_is_refused_for_minutes_makes_room(scene: Scene) -> None:
    scene.learner.fails = [LearningError("no example fits")] * 100
    scene.learn("junk", 30)
    scene.send("trickle", 2)
    crowd(scene, 0, {"junk": 30, "trickle": 2}, "junk")
    scene.tick(3)
    assert scene.router.open()["junk"].train == 30, "it may be mended"
    waited = 0.0
    while scene.router.open()["junk"].train:
        skew.skip(30.0)
        waited += 30.0
        scene.tick()
        assert waited < 3600.0
    assert waited > 300.0 and scene.router.open()["junk"].lost[0].rows == 30


def test_a_small_training_in_a_full_spool_keeps_nobody_from_making_room(scene: Scene) -> None:
    """It frees less than would let its worker read on."""
    scene.send("small", 2)
    scene.mark("small")
    scene.send("large", 30)
    crowd(scene, 0, {"small": 2, "large": 30})
    meanwhile: list[set[str]] = []

    def look() -> None:
        scene.learner.before = lambda: None
        scene.spools[0].full = True
        scene.coordinator.tick()
        meanwhile.append(set(scene.coordinator._jobs))

    scene.learner.before = look
    scene.tick(2)
    assert meanwhile == [{"small", "large"}]


def test_junk_beside_others_never_stops_the_stream(tmp_path: Path) -> None:
    """Three of four rows are rejected for good; spool, stream and sums are real."""
    recorder = RecordingLearner()
    recorder.rejects["junk"] = 10**6
    parts = HouseParts(PlainTemplate(), HashFeatures(), recorder)  # type: ignore[arg-type]
    options = limits(spool_limit=100, poll_records=10)
    house = House(tmp_path, parts, partitions=1, options=options, stream=MemoryStream(1))
    sent: list[TaskRecord] = []
    try:
        for number in range(8):
            alpha = records_of("alpha", 16, start=16 * number)
            junk = records_of("junk", 48, start=48 * number)
            sent += [*alpha, *junk]
            house.send([*junk, EndOfDomain(domain="junk"), *alpha, EndOfDomain(domain="alpha")])
            house.learn("alpha", number + 1)
        house.settle(house.is_drained)
        house.check_exact(training(sent))
        junk_state = house.state("junk")
        assert junk_state is not None and sum(stretch.rows for stretch in junk_state.lost) > 48
        assert len(house.trained("junk")) <= 4 and house.status().trouble is None
    finally:
        house.down()


# -- turns ------------------------------------------------------------------------------------------------------------


def test_one_learner_goes_round_a_flood_of_closings_and_a_trickle(scene: Scene) -> None:
    """Three domains are closed again whenever anything is trained: a fourth waits for each of them once at most."""
    floods = ("aflood", "bflood", "zflood")

    def more(training: int) -> None:
        for domain in floods:
            scene.send(domain, 20)
            scene.mark(domain)
        if training in (3, 10):
            scene.send("trickle", 2)
            scene.mark("trickle")
        scene.coordinator.tick()

    scene.learner.before = lambda: more(len(scene.learner.orders)) if len(scene.learner.orders) < 20 else None
    scene.learn("aflood")
    scene.tick(30)
    order = [each.domain for each in scene.learner.orders]
    first, second = (place for place, domain in enumerate(order, 1) if domain == "trickle")
    assert first <= 3 + len(floods) + 1 and second <= 10 + len(floods) + 1
    assert {order.count(domain) for domain in floods} <= {6, 7}, "and so do they for each other"


def test_junk_that_closes_at_every_row_takes_no_learner_from_others(scene: Scene) -> None:
    scene.learner.rejects = 10**6
    scene.learn("junk", 64)
    scene.learner.rejects = 0
    for number in range(20):
        scene.send("junk", 1)
        scene.mark("junk")
        scene.learn("alpha", 1)
        assert scene.version("alpha") == number + 1
    assert trained(scene) == [64]
