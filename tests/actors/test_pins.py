"""What is learned while a domain is pinned waits for the end of the pin, and is gone on from."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from actors.change import Change
from actors.errors import UnknownDomain
from tests.actors.clock import skew
from tests.actors.house import newest
from tests.actors.scene import Scene


@pytest.fixture
def scene() -> Iterator[Scene]:
    made = Scene()
    yield made
    made.coordinator.stop()


def waits(scene: Scene) -> int | None:
    """Return the number of the version of alpha that waits."""
    name = scene.current.withdrawn.get("alpha")
    return scene.registry.adapter(name).version if name else None


def under_a_pin(scene: Scene, *, versions: int, pinned: int, learned: int = 1) -> list[str]:
    """Have versions of alpha learned, one of them pinned, and more learned then; returns all names."""
    for _ in range(versions):
        scene.learn("alpha")
    scene.coordinator.pin("alpha", scene.registry.adapters("alpha")[pinned - 1].name)
    for _ in range(learned):
        scene.learn("alpha")
    assert (scene.version("alpha"), waits(scene)) == (pinned, versions + learned if learned else None)
    return [adapter.name for adapter in scene.registry.adapters("alpha")]


def continued(scene: Scene) -> str | None:
    path = newest(scene.learner.orders[-1])
    return path.name if path else None


def test_what_is_learned_under_a_pin_is_gone_on_from(scene: Scene) -> None:
    names = under_a_pin(scene, versions=2, pinned=1, learned=2)
    assert continued(scene) == names[2], "not from what is pinned: its rows would never be learned again"
    assert newest(scene.learner.orders[2]) == scene.registry.adapter(names[0]).path
    scene.learner.rejects = 1
    scene.learn("alpha")
    assert waits(scene) == 4 and continued(scene) == names[3]
    scene.coordinator.unpin("alpha")
    scene.learn("alpha", 8)
    assert continued(scene) == names[3] and scene.version("alpha") == 6


def test_a_version_that_waits_for_the_end_of_a_pin_says_so(scene: Scene) -> None:
    names = under_a_pin(scene, versions=1, pinned=1)
    (alpha,) = scene.coordinator.domains()
    assert (alpha.version, alpha.pinned, alpha.withdrawn, alpha.state) == (names[0], True, names[1], "published")
    assert alpha.detail == f"{names[1]} waits for the end of the pin"
    scene.coordinator.unpin("alpha")
    (alpha,) = scene.coordinator.domains()
    assert (alpha.version, alpha.pinned, alpha.withdrawn) == (names[1], False, None)


def test_a_pin_that_comes_while_a_version_is_tried_again_keeps_it(scene: Scene) -> None:
    """Between the look at what is withdrawn and its publication, the domain is pinned."""
    scene.learn("alpha")
    scene.replicas.refuses = {f"alpha@v2-{n}0000000" for n in range(10)}
    scene.learn("alpha")
    scene.replicas.refuses = set()
    scene.coordinator.pin("alpha")
    name = scene.current.withdrawn["alpha"]
    scene.router.publish(Change("tried again", puts={"alpha": name}))
    assert (scene.version("alpha"), waits(scene)) == (1, 2)
    assert scene.coordinator.unpin("alpha").routes["alpha"].version == 2


def test_going_back_under_a_pin_keeps_what_was_learned_since(scene: Scene) -> None:
    one, two, three, _ = under_a_pin(scene, versions=3, pinned=3)
    for version, name in ((2, None), (1, one), (1, one), (2, two), (3, three)):
        scene.coordinator.rollback("alpha", name)
        assert (scene.version("alpha"), waits(scene)) == (version, 4)
    scene.coordinator.pin("alpha")
    scene.coordinator.unpin("alpha")
    assert (scene.version("alpha"), waits(scene)) == (4, None)


def test_what_was_in_service_when_an_operator_went_back_does_not_return(scene: Scene) -> None:
    names = under_a_pin(scene, versions=2, pinned=2)
    assert scene.coordinator.unpin("alpha").routes["alpha"].version == 3
    scene.coordinator.rollback("alpha")
    assert waits(scene) is None
    scene.coordinator.unpin("alpha")
    scene.tick(2)
    assert scene.version("alpha") == 2
    scene.learn("alpha")
    assert continued(scene) == names[1] and scene.version("alpha") == 4


def test_what_nobody_could_load_before_an_operator_went_back_does_not_return(scene: Scene) -> None:
    for _ in range(2):
        scene.learn("alpha")
    scene.replicas.refuses = {f"alpha@v3-{n}0000000" for n in range(10)}
    scene.learn("alpha")
    scene.replicas.refuses = set()
    two = scene.current.routes["alpha"].adapter
    assert waits(scene) == 3
    assert scene.coordinator.pin("alpha", two).withdrawn == scene.current.withdrawn != {}, "that goes nowhere"
    scene.coordinator.unpin("alpha")
    assert scene.version("alpha") == 3
    scene.learn("alpha")
    scene.replicas.refuses = {f"alpha@v5-{n}0000000" for n in range(10)}
    scene.learn("alpha")
    assert (scene.version("alpha"), waits(scene)) == (4, 5)
    scene.coordinator.rollback("alpha")
    assert (scene.version("alpha"), waits(scene)) == (3, None)


def test_the_one_that_waits_may_be_chosen(scene: Scene) -> None:
    *_, three = under_a_pin(scene, versions=2, pinned=1)
    route = scene.coordinator.pin("alpha", three).routes["alpha"]
    assert (route.adapter, route.pinned, waits(scene)) == (three, True, None)


def test_the_end_of_a_pin_does_not_fail_with_what_nobody_can_load(scene: Scene) -> None:
    names = under_a_pin(scene, versions=1, pinned=1)
    scene.replicas.refuses = {names[1]}
    route = scene.coordinator.unpin("alpha").routes["alpha"]
    assert (route.adapter, route.pinned, waits(scene)) == (names[0], False, 2)
    assert scene.in_service()
    number = scene.current.number
    assert scene.coordinator.unpin("alpha").number == number, "it is tried in its own time"
    scene.tick()
    (alpha,) = scene.coordinator.domains()
    assert (alpha.state, alpha.pinned, alpha.withdrawn) == ("failed", False, names[1])
    scene.replicas.refuses = set()
    skew.skip(700.0)
    scene.tick(2)
    assert (scene.version("alpha"), waits(scene), scene.in_service()) == (2, None, True)


def test_the_end_of_a_pin_does_not_fail_with_what_is_damaged(scene: Scene) -> None:
    names = under_a_pin(scene, versions=2, pinned=2)
    gone = scene.registry.versions.pop(names[2])
    route = scene.coordinator.unpin("alpha").routes["alpha"]
    assert (route.version, route.pinned, scene.current.withdrawn) == (2, False, {"alpha": names[2]})
    scene.tick()
    (alpha,) = scene.coordinator.domains()
    assert (alpha.state, names[2] in alpha.detail) == ("failed", True)
    scene.registry.versions[names[2]] = gone
    skew.skip(700.0)
    scene.tick(2)
    assert scene.version("alpha") == 3


def test_the_end_of_a_pin_that_is_refused_for_another_reason_is_an_error(scene: Scene) -> None:
    names = under_a_pin(scene, versions=1, pinned=1)
    with pytest.raises(UnknownDomain, match="'beta' is not published; published: \\['alpha'\\]"):
        scene.coordinator.unpin("beta")
    scene.replicas.away = True
    with pytest.raises(ConnectionError):
        scene.coordinator.unpin("alpha")
    assert scene.current.routes["alpha"].pinned and scene.current.withdrawn == {"alpha": names[1]}


def test_what_is_pinned_and_can_not_be_loaded_gives_way_to_what_waits(scene: Scene) -> None:
    """Replicas that start anew can't take what is in force any more."""
    names = under_a_pin(scene, versions=1, pinned=1)
    scene.replicas.refuses, scene.replicas.served = {names[0]}, 0
    scene.tick()
    assert scene.current.withdrawn == {"alpha": names[1]}
    scene.coordinator.unpin("alpha")
    assert (scene.version("alpha"), scene.in_service()) == (2, True)
