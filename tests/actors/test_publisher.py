"""What is committed is a fact: replicas are led to it, whoever committed it and whoever died since."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from actors.change import Change
from actors.errors import PublicationFailed
from tests.actors.clock import skew
from tests.actors.house import newest
from tests.actors.scene import Scene


@pytest.fixture
def scene() -> Iterator[Scene]:
    """Alpha is served in its second version, beta in its first."""
    made = Scene()
    for domain in ("alpha", "alpha", "beta"):
        made.learn(domain)
    assert (made.version("alpha"), made.version("beta"), made.in_service()) == (2, 1, True)
    yield made
    made.coordinator.stop()


def names(scene: Scene, domain: str) -> list[str]:
    return [adapter.name for adapter in scene.registry.adapters(domain)]


# -- level-triggered --------------------------------------------------------------------------------------------------


def test_replicas_are_led_to_what_another_committed(scene: Scene) -> None:
    """A coordinator that died after the commit of a command is one who committed and told nobody."""
    scene.router.publish(Change(reason="alpha removed", removes={"alpha": 2}))
    scene.start()
    assert not scene.in_service()
    scene.tick()
    assert scene.in_service()


def test_a_replica_that_nobody_led_on_is_led_on_although_the_directory_believes_it_done(scene: Scene) -> None:
    """A directory that was started again takes what is in force as done, wherever the replicas stand."""
    number = scene.router.publish(Change(reason="x", pins={"alpha": True})).number
    scene.replicas.led = number
    scene.tick()
    assert scene.in_service()


def test_nothing_is_asked_of_replicas_that_stand_where_they_should(scene: Scene) -> None:
    asked = len(scene.replicas.asked)
    scene.tick(5)
    assert len(scene.replicas.asked) == asked


@pytest.mark.parametrize("command", ["remove", "rollback", "pin", "unpin"])
def test_a_command_has_succeeded_when_it_is_committed(scene: Scene, command: str) -> None:
    if command == "unpin":
        scene.coordinator.pin("alpha")
    scene.replicas.deaf = True
    manifest = getattr(scene.coordinator, command)("alpha")
    assert manifest == scene.current and not scene.in_service()
    assert "the directory died" in str(scene.coordinator.status().trouble)
    scene.tick(3)
    assert not scene.in_service()
    scene.replicas.deaf = False
    skew.skip(700.0)
    scene.tick()
    assert scene.in_service()
    assert scene.coordinator.status().trouble is None


@pytest.mark.parametrize("command", ["remove", "rollback", "pin", "unpin"])
def test_nothing_is_committed_while_the_directory_is_away(scene: Scene, command: str) -> None:
    before, rows = scene.current, scene.router.examples()
    scene.replicas.away = True
    with pytest.raises(ConnectionError):
        getattr(scene.coordinator, command)("alpha")
    assert (scene.current, scene.router.examples()) == (before, rows)


def test_a_tick_does_not_wait_for_replicas(scene: Scene) -> None:
    scene.router.publish(Change(reason="x", pins={"alpha": True}))
    with scene.coordinator.publisher.writing:
        scene.coordinator.tick()
        scene.coordinator.tick()
        assert not scene.in_service()
    for job in scene.coordinator.work():
        job.result(20)
    assert scene.in_service()


# -- what nobody can load ---------------------------------------------------------------------------------------------


def test_a_learned_version_nobody_can_load_is_withdrawn_and_tried_again(scene: Scene) -> None:
    one = scene.current.routes["beta"].adapter
    scene.replicas.refuses = {"beta@v2-00000000", *(f"beta@v2-{n}0000000" for n in range(10))}
    scene.learn("beta")
    two = names(scene, "beta")[1]
    assert scene.replicas.refuses >= {two}
    assert (scene.current.routes["beta"].adapter, scene.current.withdrawn) == (one, {"beta": two})
    assert scene.in_service()
    described = {d.domain: d for d in scene.coordinator.status().domains}["beta"]
    assert (described.state, described.withdrawn) == ("failed", two)
    assert scene.router.open() == {}, "its rows are settled: what fails is loading, not learning"
    number = scene.current.number
    scene.tick(3)
    assert scene.current.number == number, "it is left alone for a while"
    skew.skip(700.0)
    scene.tick()
    assert scene.current.number == number + 2 and scene.version("beta") == 1, "tried, and put back again"
    scene.start()
    scene.replicas.refuses = set()
    scene.tick()
    assert (scene.version("beta"), scene.current.withdrawn, scene.in_service()) == (2, {}, True)
    assert len([order for order in scene.learner.orders if order.domain == "beta"]) == 2


def test_a_first_version_nobody_can_load_leaves_the_domain_without_a_route(scene: Scene) -> None:
    scene.replicas.refuses = {"gamma"}
    scene.learn("gamma")
    assert "gamma" not in scene.current.routes and set(scene.current.withdrawn) == {"gamma"}
    assert scene.in_service()
    # The next version goes on from it, although it is not in service: nobody else has learned from its rows.
    scene.replicas.refuses = set()
    scene.learn("gamma")
    assert newest(scene.learner.orders[-1]) == scene.registry.adapters("gamma")[0].path
    assert scene.version("gamma") == 2 and scene.current.withdrawn == {}


def test_a_coordinator_that_died_between_the_failure_and_putting_back(scene: Scene) -> None:
    """Nothing of it is remembered: manifests and replicas say all."""
    one = scene.current.routes["beta"].adapter

    def dies(name: str) -> None:
        if (
            name == "publish"
            and scene.router.changes[-1].reason.endswith("learned")
            and "beta" in scene.replicas.refuses
        ):
            raise ConnectionError("the router is away")

    scene.send("beta", 8)
    scene.mark("beta")
    scene.coordinator.tick()
    for job in scene.coordinator.work():
        job.result(20)
    scene.replicas.served = scene.replicas.led = scene.current.number - 1
    scene.replicas.refuses = {scene.current.routes["beta"].adapter, "beta"}
    scene.router.on_call = dies
    scene.start()
    scene.tick()
    assert scene.version("beta") == 2 and not scene.in_service()
    scene.router.on_call = lambda _name: None
    scene.replicas.refuses = {scene.current.routes["beta"].adapter}
    skew.skip(700.0)
    scene.coordinator.publisher.lead_on()
    assert scene.current.routes["beta"].adapter == one
    assert scene.in_service()


def test_what_an_operator_chose_and_nobody_can_load_is_an_error_of_the_command(scene: Scene) -> None:
    one, two = names(scene, "alpha")
    scene.replicas.refuses = {one}
    with pytest.raises(PublicationFailed):
        scene.coordinator.rollback("alpha")
    route = scene.current.routes["alpha"]
    assert (route.adapter, route.pinned, scene.current.withdrawn) == (two, False, {})
    assert scene.in_service()
    scene.replicas.refuses = set()
    skew.skip(700.0)
    scene.tick(2)
    assert scene.version("alpha") == 2, "a command that failed is not carried out later"


@pytest.mark.parametrize("command", ["rollback", "pin"])
def test_a_command_that_fails_under_a_pin_loses_nothing_that_waits(scene: Scene, command: str) -> None:
    scene.coordinator.pin("alpha")
    scene.learn("alpha")
    one, two, three = names(scene, "alpha")
    chosen = one if command == "rollback" else three
    scene.replicas.refuses = {chosen}
    with pytest.raises(PublicationFailed):
        getattr(scene.coordinator, command)("alpha", chosen)
    route = scene.current.routes["alpha"]
    assert (route.adapter, route.pinned, scene.current.withdrawn) == (two, True, {"alpha": three})
    scene.replicas.refuses = set()
    skew.skip(700.0)
    scene.tick(2)
    assert scene.version("alpha") == 2
    assert scene.coordinator.unpin("alpha").routes["alpha"].adapter == three


def test_what_was_learned_under_a_pin_that_is_put_back_is_not_lost(scene: Scene) -> None:
    """The replicas stand before the pin, and can't take the version that was chosen."""
    one, two = names(scene, "alpha")
    served = scene.current.number
    scene.coordinator.rollback("alpha")
    scene.learn("alpha")
    three = names(scene, "alpha")[2]
    scene.replicas.served = scene.replicas.led = served
    scene.replicas.refuses = {one}
    scene.coordinator.publisher.lead_on()
    route = scene.current.routes["alpha"]
    assert (route.adapter, route.pinned, scene.current.withdrawn) == (two, False, {"alpha": three})
    scene.tick()
    assert scene.current.routes["alpha"].adapter == three


def test_what_goes_on_from_a_first_version_that_is_put_back_is_not_lost(scene: Scene) -> None:
    """The replicas stand before the domain, whose first version was pinned meanwhile."""
    served = scene.current.number
    scene.learn("gamma")
    scene.coordinator.pin("gamma")
    scene.learn("gamma")
    one, two = names(scene, "gamma")
    scene.replicas.served = scene.replicas.led = served
    scene.replicas.refuses = {one}
    scene.coordinator.publisher.lead_on()
    assert "gamma" not in scene.current.routes and scene.current.withdrawn == {"gamma": two}
    scene.tick()
    assert scene.current.routes["gamma"].adapter == two


def test_several_changes_that_no_replica_has_seen_are_put_back_together(scene: Scene) -> None:
    """The replicas say what they serve; the manifest in between was never led to."""
    before = dict(scene.current.routes)
    scene.send("alpha", 8)
    scene.send("beta", 8)
    served = scene.current.number
    for domain in ("alpha", "beta"):
        scene.mark(domain)
    scene.tick(2)
    assert (scene.version("alpha"), scene.version("beta")) == (3, 2)
    three, two = scene.current.routes["alpha"].adapter, scene.current.routes["beta"].adapter
    scene.replicas.served = scene.replicas.led = served
    scene.replicas.refuses = {three}
    scene.coordinator.publisher.lead_on()
    assert dict(scene.current.routes) == before and scene.in_service()
    assert scene.current.withdrawn == {"alpha": three, "beta": two}
    scene.tick()
    assert (scene.version("alpha"), scene.version("beta")) == (2, 2), "what was not to blame is back at once"


def test_where_nobody_can_tell_what_is_new_nothing_is_put_back(scene: Scene) -> None:
    """The manifest before is pruned after a removal, and replicas that start serve nothing yet."""
    routes = dict(scene.current.routes)
    scene.router.publish(Change(reason="x", pins={"alpha": True}))
    del scene.registry.kept[scene.current.number - 1]
    scene.replicas.served, scene.replicas.refuses = 0, {"beta"}
    scene.tick()
    assert scene.current.routes.keys() == routes.keys() and scene.current.withdrawn == {}


def test_a_removal_is_never_put_back(scene: Scene) -> None:
    scene.replicas.refuses = {"beta"}
    manifest = scene.coordinator.remove("alpha")
    assert scene.current == manifest and not scene.in_service()
    assert "no replica could prepare it" in str(scene.coordinator.status().trouble)
    skew.skip(700.0)
    scene.tick()
    assert scene.current == manifest, "there is nothing new in it that could be taken back"
    scene.replicas.refuses = set()
    skew.skip(700.0)
    scene.tick()
    assert scene.in_service() and scene.coordinator.status().trouble is None


# -- files ------------------------------------------------------------------------------------------------------------


def test_files_go_once_no_replica_stands_before_the_removal(scene: Scene) -> None:
    scene.replicas.deaf = True
    scene.coordinator.remove("alpha")
    scene.tick(2)
    assert names(scene, "alpha") != []
    scene.replicas.deaf = False
    skew.skip(700.0)
    scene.tick(2)
    assert names(scene, "alpha") == []
    assert scene.registry.pruned[-1] == (2, 20, 3, scene.current.number)
    done = len(scene.registry.pruned)
    scene.tick(5)
    assert len(scene.registry.pruned) == done, "nothing changes, nothing is due"


def test_small_files_are_joined_when_nothing_else_is_due(scene: Scene) -> None:
    calls: list[str] = []
    scene.router.on_call = calls.append
    scene.tick(3)
    assert "tidy" not in calls
    skew.skip(61.0)
    scene.tick(3)
    assert calls.count("tidy") == 1
