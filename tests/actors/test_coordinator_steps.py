"""What the coordinator decides from ledger, reports and registry alone, step by step, wherever it was killed."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

from actors.closing import ClosingRule
from actors.errors import UnknownDomain
from learning.errors import LearningError
from registry.manifest import Tombstone
from tests.actors.clock import skew
from tests.actors.scene import P0, P1, Scene

Build = Callable[..., Scene]
QUIET = ClosingRule(count=None, quiet_seconds=60.0, settle_seconds=60.0)


@pytest.fixture
def build() -> Iterator[Build]:
    made: list[Scene] = []

    def _build(**options: object) -> Scene:
        made.append(Scene(**options))  # type: ignore[arg-type]
        return made[-1]

    yield _build
    for scene in made:
        scene.coordinator.stop()


def ordered(scene: Scene) -> list[tuple[str, int, int, int]]:
    return [(o.domain, o.seal.version, o.seal.train, o.seal.held_out) for o in scene.learner.orders]


# -- closing ----------------------------------------------------------------------------------------------------------


def test_rows_behind_a_marker_wait_for_the_next_version(build: Build) -> None:
    scene = build()
    scene.send("alpha", 5, to=P0, held_out=1, mark=True)
    scene.send("alpha", 3, to=P0)
    scene.send("alpha", 2, to=P1, mark=True)
    scene.tick(2)
    assert ordered(scene) == [("alpha", 1, 7, 1)]
    assert scene.router.open()["alpha"].train == 3
    scene.mark("alpha")
    scene.tick(2)
    assert ordered(scene)[1:] == [("alpha", 2, 3, 0)]


def test_a_marker_with_nothing_before_it_does_not_close_what_comes_behind(build: Build) -> None:
    scene = build()
    scene.mark("alpha")
    scene.send("alpha", 3)
    scene.tick(3)
    assert ordered(scene) == [] and not scene.router.open()["alpha"].markers
    scene.mark("alpha")
    scene.tick()
    assert ordered(scene) == [("alpha", 1, 3, 0)]


def test_a_marker_that_comes_while_an_earlier_one_is_dropped_closes_its_domain(build: Build) -> None:
    """Between the look at what waits and the dropping, rows and their own marker are counted."""
    scene = build()
    scene.mark("alpha")

    def more_comes(name: str) -> None:
        if name == "drop_markers":
            scene.router.on_call = lambda _name: None
            scene.send("alpha", 4)
            scene.mark("alpha")

    scene.router.on_call = more_comes
    scene.tick(2)
    assert ordered(scene) == [("alpha", 1, 4, 0)]


def test_a_count_closes_behind_a_marker_too(build: Build) -> None:
    """In one partition only and not settled, the marker completes nothing; the number of rows does."""
    scene = build(closing=ClosingRule(count=4, quiet_seconds=None, settle_seconds=60.0))
    scene.send("alpha", 1, to=P0, mark=True)
    scene.send("alpha", 3, to=P0)
    scene.tick()
    assert ordered(scene) == [("alpha", 1, 4, 0)]


def test_a_domain_of_held_out_rows_says_so(build: Build) -> None:
    scene = build()
    scene.send("alpha", 0, held_out=5)
    scene.mark("alpha")
    scene.tick(2)
    (alpha,) = scene.coordinator.domains()
    assert (alpha.state, ordered(scene)) == ("open", []) and "all of its 5 examples are held out" in alpha.detail
    scene.learn("alpha")
    (alpha,) = scene.coordinator.domains()
    assert (alpha.detail, scene.version("alpha")) == (alpha.version, 1)


def test_nothing_is_trained_on_of_a_domain_that_was_removed_before_its_training_began(build: Build) -> None:
    """Its rows still lie in the spools for a moment, and would be given."""
    scene = build()

    def removed_once_sealed(name: str) -> None:
        if name == "open" and any(entry.seal for entry in scene.router.ledger.entries.values()):
            scene.router.on_call = lambda _name: None
            scene.coordinator.remove("alpha")

    scene.router.on_call = removed_once_sealed
    scene.send("alpha", 4)
    scene.mark("alpha")
    scene.tick(2)
    assert ordered(scene) == [] and scene.router.examples() == {}


# -- workers that do not answer ---------------------------------------------------------------------------------------


def test_a_silent_worker_keeps_nobody_from_closing_and_nothing_from_being_removed(build: Build) -> None:
    scene = build()
    scene.spools[1].away = True
    scene.learn("alpha")
    assert scene.version("alpha") == 1
    scene.coordinator.remove("alpha")
    assert scene.router.examples() == {} and scene.in_service()
    status = scene.coordinator.status()
    assert status.trouble is None and dict(status.troubles()) == {"ingest-1 report": "the worker is being restarted"}


def test_a_silent_worker_is_quiet_since_it_fell_silent(build: Build) -> None:
    scene = build(closing=QUIET)
    scene.send("alpha", 4)
    scene.spools[0].quiet, scene.spools[1].quiet = {"alpha": 1e6}, {"alpha": 0.0}
    scene.tick()
    scene.spools[1].away = True
    scene.tick()
    assert ordered(scene) == [], "it was heard of a moment ago"
    skew.skip(61.0)
    scene.tick()
    assert ordered(scene) == [("alpha", 1, 4, 0)]


def test_a_domain_whose_rows_wait_at_a_silent_worker_is_not_quiet_before_they_are_counted(build: Build) -> None:
    scene = build(closing=QUIET)
    for domain in ("alpha", "beta"):
        scene.send(domain, 4)
        for spool in scene.spools:
            spool.quiet[domain] = 1e6
    scene.spools[1].unobserved, scene.spools[1].reaches = {"alpha": 2}, {P1: 2}
    scene.tick()
    scene.spools[1].away = True
    scene.tick()
    skew.skip(1e6)
    scene.tick()
    assert ordered(scene) == [("beta", 1, 4, 0)]
    # The worker never comes back, and another one has read them.
    scene.send("alpha", 2, to=P1)
    scene.tick()
    assert ordered(scene)[1:] == [("alpha", 1, 6, 0)]


def test_a_router_that_is_away_stops_neither_replicas_nor_the_tick(build: Build) -> None:
    scene = build()
    scene.learn("alpha")
    scene.replicas.served = 0
    scene.replicas.led = 0

    def away(_name: str) -> None:
        raise ConnectionError("router away")

    scene.router.on_call = away
    scene.tick(2)
    assert scene.in_service()
    assert "the router does not answer: router away" in str(scene.coordinator.status().trouble)
    scene.router.on_call = lambda _name: None
    scene.tick()
    assert scene.coordinator.status().trouble is None


def test_a_failure_of_what_is_not_there_any_more_is_over(build: Build) -> None:
    scene = build()
    scene.mark("alpha")

    def away(name: str) -> None:
        if name == "drop_markers":
            raise ConnectionError("router away")

    scene.router.on_call = away
    scene.tick()
    assert [d.state for d in scene.coordinator.domains()] == ["failed"]
    scene.tick()
    scene.router.on_call = lambda _name: None
    scene.send("alpha", 4)
    skew.skip(700.0)
    scene.tick()
    assert [(d.state, d.detail) for d in scene.coordinator.domains()] == [("open", "")]


# -- from wherever it was killed --------------------------------------------------------------------------------------


class Killed(BaseException):
    """The coordinator dies here."""


def kill(scene: Scene) -> None:
    with pytest.raises(Killed):
        scene.tick(2)
    scene.start()


def test_a_domain_sealed_when_the_coordinator_died_is_trained_on_what_was_sealed(build: Build) -> None:
    scene = build()
    scene.send("alpha", 5)
    scene.mark("alpha")
    scene.learner.fails = [Killed()]
    kill(scene)
    scene.send("alpha", 7)
    scene.tick()
    assert ordered(scene) == [("alpha", 1, 5, 0)] * 2
    assert scene.version("alpha") == 1 and scene.router.open()["alpha"].train == 7


@pytest.mark.parametrize("where", ["publish", "reopen"])
def test_what_was_learned_is_not_learned_again(build: Build, where: str) -> None:
    scene = build()
    scene.learner.rejects = 1 if where == "reopen" else 0
    scene.send("alpha", 5, held_out=2)
    scene.mark("alpha")

    def dies(name: str) -> None:
        if name == where:
            raise Killed

    scene.router.on_call = dies
    kill(scene)
    scene.router.on_call = lambda _name: None
    scene.tick(2)
    assert len(scene.learner.orders) == 1
    assert scene.version("alpha") == (1 if where == "publish" else None)
    state = next(iter(scene.coordinator.domains()))
    assert state.state == ("published" if where == "publish" else "rejected")
    assert state.waiting.sealed == ()


def test_what_the_learner_refuses_is_sealed_anew_with_more_examples(build: Build) -> None:
    scene = build()
    scene.send("alpha", 5)
    scene.mark("alpha")
    scene.learner.fails = [LearningError("no example fits"), LearningError("still none")]
    scene.tick(3)
    assert ordered(scene) == [("alpha", 1, 5, 0)], "the same again would be refused again"
    skew.skip(5.0)
    scene.tick()
    assert ordered(scene)[1:] == [("alpha", 1, 5, 0)], "but is tried when its pause is over"
    scene.send("alpha", 5)
    scene.tick()
    assert len(scene.learner.orders) == 2
    scene.mark("alpha")
    scene.tick()
    assert ordered(scene)[2:] == [("alpha", 1, 10, 0)] and scene.version("alpha") == 1


def test_a_rejected_version_is_tried_again_with_new_rows_only(build: Build) -> None:
    scene = build()
    scene.learner.rejects = 1
    scene.learn("alpha", 5)
    assert scene.coordinator.domains()[0].state == "rejected"
    scene.mark("alpha")
    scene.tick(3)
    assert len(scene.learner.orders) == 1 and not scene.router.open()["alpha"].markers
    scene.learn("alpha", 5)
    assert ordered(scene)[1:] == [("alpha", 2, 10, 0)] and scene.version("alpha") == 2


# -- room -------------------------------------------------------------------------------------------------------------


def test_room_is_made_where_it_is_needed(build: Build) -> None:
    scene = build()
    for domain, rows in (("alpha", 30), ("beta", 8), ("gamma", 3)):
        scene.send(domain, rows)
    scene.spools[1].full, scene.spools[1].rows = True, {"alpha": 2, "beta": 8, "gamma": 3, "settled": 50}
    scene.tick()
    assert ordered(scene) == [("beta", 1, 8, 0)]


def test_a_full_worker_without_a_domain_to_close_is_named(build: Build) -> None:
    scene = build()
    scene.learner.fails = [LearningError("no example fits")]
    scene.learn("alpha")
    scene.spools[1].full, scene.spools[1].rows = True, {"alpha": 8}
    scene.tick()
    assert "the spool of ingest-1 is full" in str(scene.coordinator.status().trouble)
    assert len(scene.learner.orders) == 1 and scene.router.open()["alpha"].train == 8


def test_what_only_waits_for_more_is_given_up_before_it_stops_the_stream(build: Build) -> None:
    """Of what was rejected, and of what is all held out, no version is made before more has come."""
    scene = build()
    scene.learner.rejects = 1
    scene.learn("alpha")
    scene.send("beta", 0, held_out=3)
    scene.send("gamma", 2)
    scene.spools[1].reaches = {P0: 20}
    scene.spools[1].full, scene.spools[1].rows = True, {"alpha": 8, "beta": 3, "gamma": 2}
    scene.tick()
    assert scene.router.open()["alpha"].train == 8, "what can be closed is closed first"
    assert scene.version("gamma") == 1
    scene.spools[1].rows = {"alpha": 8, "beta": 3}
    scene.tick()
    assert (scene.router.open()["alpha"].train, scene.router.open()["beta"].held_out) == (0, 3)
    scene.spools[1].rows = {"beta": 3}
    scene.tick()
    assert scene.router.open()["beta"].held_out == 0
    status = scene.coordinator.status()
    lost = {each.domain: sum(stretch.rows for stretch in each.lost) for each in status.domains}
    assert lost == {"alpha": 8, "beta": 3, "gamma": 0} and len(scene.learner.orders) == 2
    assert "8 examples in stream[0]" in dict(status.troubles())["alpha lost"]
    scene.spools[1].rows = {"delta": 1}
    scene.tick()
    assert "the spool of ingest-1 is full" in str(scene.coordinator.status().trouble)


def test_a_training_of_what_fills_another_worker_keeps_nobody_from_making_room(build: Build) -> None:
    scene = build()
    scene.send("alpha", 5)
    scene.send("beta", 8)
    scene.spools[0].full, scene.spools[0].rows = True, {"alpha": 5}
    meanwhile: list[set[str]] = []

    def look() -> None:
        scene.learner.before = lambda: None
        scene.spools[1].full, scene.spools[1].rows = True, {"beta": 8}
        scene.coordinator.tick()
        meanwhile.append(set(scene.coordinator._jobs))

    scene.learner.before = look
    scene.tick(2)
    assert meanwhile == [{"alpha", "beta"}]
    assert scene.version("alpha") == scene.version("beta") == 1


# -- removal ----------------------------------------------------------------------------------------------------------


def test_a_removal_covers_the_version_that_is_being_trained(build: Build) -> None:
    scene = build()
    scene.learn("alpha")
    scene.send("alpha", 5)
    scene.mark("alpha")

    def meanwhile() -> None:
        scene.coordinator.remove("alpha")
        scene.coordinator._upkeep.go_over(is_idle=False)

    scene.learner.before = meanwhile
    scene.tick()
    scene.learner.before = lambda: None
    assert scene.current.removed == {"alpha": Tombstone(version=2, manifest=scene.current.number)}
    assert scene.current.routes == {}
    scene.tick(2)
    assert scene.registry.adapters() == [], "what was learned meanwhile goes with the rest"
    assert scene.coordinator.domains() == ()
    scene.learn("alpha")
    assert ordered(scene)[-1][:2] == ("alpha", 3) and scene.version("alpha") == 3
    assert scene.learner.orders[-1].segments == ()


def test_a_removal_fences_off_what_any_worker_has_ever_read_or_seen(build: Build) -> None:
    scene = build()
    scene.send("alpha", 4)
    scene.spools[0].positions, scene.spools[1].positions = {P0: 9}, {P0: 3, P1: 7}
    scene.spools[0].ends, scene.spools[1].ends = {P0: 8}, {P0: 3, P1: 12}
    scene.tick()
    scene.spools[1].away = True
    scene.coordinator.remove("alpha")
    assert scene.router.changes[-1].fence == {P0: 9, P1: 12}
    assert scene.router.ledger.fences() == {"alpha": {P0: 9, P1: 12}}


def test_rows_that_only_a_spool_has_are_removed_with_their_domain(build: Build) -> None:
    scene = build()
    scene.spools[0].unobserved, scene.spools[0].positions = {"alpha": 4}, {P0: 4}
    scene.coordinator.remove("alpha")
    assert scene.router.ledger.fences() == {"alpha": {P0: 4}}


def test_commands_may_be_repeated(build: Build) -> None:
    scene = build()
    scene.learn("alpha")
    scene.learn("alpha")
    one = scene.registry.adapters("alpha")[0].name
    for command in (
        lambda: scene.coordinator.pin("alpha"),
        lambda: scene.coordinator.rollback("alpha", one),
        lambda: scene.coordinator.unpin("alpha"),
        lambda: scene.coordinator.remove("alpha"),
    ):
        assert command() == command()
    with pytest.raises(UnknownDomain):
        scene.coordinator.remove("nobody")


def test_versions_of_a_removed_domain_are_refused_in_words(build: Build) -> None:
    scene = build()
    for _ in range(2):
        scene.learn("alpha")
    one, two = (adapter.name for adapter in scene.registry.adapters("alpha"))
    files = dict(scene.registry.versions)
    removal = scene.coordinator.remove("alpha").number
    for _ in range(2):
        scene.learn("alpha")
    words = f"removed with manifest {removal}"
    for name in (one, two):
        for command in (scene.coordinator.pin, scene.coordinator.rollback):
            with pytest.raises(UnknownDomain, match=words):
                command("alpha", name)
    assert scene.version("alpha") == 4
    # Also while their files are still there.
    scene.registry.versions |= files
    assert scene.coordinator.rollback("alpha").routes["alpha"].version == 3
    with pytest.raises(UnknownDomain, match="no accepted version before v3"):
        scene.coordinator.rollback("alpha")


def test_what_is_pinned_is_not_replaced_by_what_could_not_be_loaded(build: Build) -> None:
    scene = build()
    scene.learn("alpha")
    scene.replicas.refuses = {f"alpha@v2-{n}0000000" for n in range(10)}
    scene.learn("alpha")
    assert scene.current.withdrawn
    scene.coordinator.pin("alpha")
    scene.replicas.refuses = set()
    skew.skip(700.0)
    scene.tick(2)
    assert scene.version("alpha") == 1
    scene.coordinator.unpin("alpha")
    scene.tick()
    assert scene.version("alpha") == 2


@pytest.mark.parametrize("end", ["rejected", "not published"])
def test_what_was_learned_of_a_domain_that_was_removed_meanwhile_goes_however_it_ends(build: Build, end: str) -> None:
    scene = build()
    scene.send("alpha", 4)
    scene.mark("alpha")
    scene.learner.rejects = int(end == "rejected")

    def removes() -> None:
        scene.coordinator.remove("alpha")
        # Nothing is committed after this, and there is nothing of alpha to be deleted yet.
        scene.coordinator._upkeep.go_over(is_idle=False)
        scene.replicas.away = end == "not published"

    scene.learner.before = removes
    scene.tick()
    scene.replicas.away = False
    scene.tick(2)
    assert len(scene.learner.orders) == 1 and not scene.registry.versions
