"""A method whose trainings build on each other: what one changes for all domains comes into service as one."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import pytest

from actors.errors import UnknownDomain
from registry.errors import RegistryError
from registry.manifest import Manifest
from tests.actors.house import Crash
from tests.actors.lane import LaneHouse, versions
from tests.actors.sharing import trainings

Build = Callable[..., LaneHouse]


def test_each_training_sees_what_the_one_before_it_left(lane: Build) -> None:
    house = lane()
    house.feed("alpha", "beta", "gamma")
    house.settle(lambda: house.version("gamma") == 1 and not house.waiting("gamma"))
    assert [job.domain for job in house.learner.jobs] == house.trainings() == ["alpha", "beta", "gamma"]
    assert [trainings(job.state) if job.state else [] for job in house.learner.jobs] == [
        [],
        ["alpha"],
        ["alpha", "beta"],
    ]
    assert versions(house) == {"alpha": 3, "beta": 2, "gamma": 1}
    assert {each.domain: each.detail for each in house.coordinator.domains()} == {
        domain: route.adapter for domain, route in house.current.routes.items()
    }
    house.check_one()
    seen = [(each.domain, len(each.exam)) for each in house.learner.jobs[-1].incumbents]
    assert seen == [("alpha", 2), ("beta", 2)], "with their exams"
    made = house.registry.numbered("alpha", 3)
    assert made is not None and (made.facts.reason, made.facts.train_examples) == ("made with gamma v1", 0)
    assert made.exam() == house.registry.adapters("alpha")[0].exam(), "nothing was held out of it since"
    house.feed("alpha", start=20)
    house.settle(lambda: house.version("alpha") == 4 and not house.waiting("alpha"))
    assert versions(house) == {"alpha": 4, "beta": 3, "gamma": 2}
    house.check_one()
    assert house.coordinator.rollback("beta").routes["beta"].version == 2
    assert house.coordinator.rollback("gamma").routes["gamma"].version == 1


def test_one_is_trained_at_a_time_and_nobody_is_passed_over(lane: Build) -> None:
    house = lane()
    running: list[str] = []

    def trains(domain: str) -> None:
        running.append(domain)
        house.coordinator.tick()
        assert list(house.coordinator._jobs) == [domain], "the lane is taken"

    house.trainer.before = trains
    for start in (0, 20, 40):
        house.feed("alpha", "beta", start=start)
        seen = len(running) + 2
        house.settle(lambda seen=seen: len(running) == seen and not house.waiting("alpha") + house.waiting("beta"))
    assert running == ["alpha", "beta"] * 3
    house.check_one()


def test_a_domain_that_can_not_be_learned_keeps_none_of_the_others_waiting(lane: Build) -> None:
    house = lane()
    house.trainer.fails = [OSError("the disk is full")]
    house.feed("alpha", "beta")
    house.settle(lambda: house.version("beta") == 1)
    house.settle(lambda: house.version("alpha") == 1)
    assert house.trainings() == ["beta", "alpha"]
    house.check_one()


@pytest.mark.parametrize("after", ["add_adapter", "put"])
def test_a_death_between_the_versions_of_one_training(lane: Build, after: str) -> None:
    """What was kept before it came to the last one is served by nobody, and the training is made again."""
    house = lane()
    house.feed("alpha")
    house.learn("alpha")
    kept = house.registry.add_adapter if after == "add_adapter" else house.registry.states.put

    def dies(*args: object, **kwargs: object) -> None:
        kept(*args, **kwargs)  # type: ignore[arg-type]
        raise Crash

    setattr(house.registry if after == "add_adapter" else house.registry.states, after, dies)
    house.feed("beta")
    with pytest.raises(Crash):
        house.settle(lambda: house.version("beta") == 1)
    house.crash()
    assert versions(house) == {"alpha": 1}
    house.learn("beta")
    assert versions(house) == {"alpha": 3 if after == "add_adapter" else 2, "beta": 1}
    assert house.trainings() == ["alpha", "beta"]
    house.check_one()
    with pytest.raises(
        UnknownDomain, match="not published yet, or was undone" if after == "add_adapter" else "no accepted"
    ):
        orphan = house.registry.numbered("alpha", 2)
        house.coordinator.pin("alpha", orphan.name if after == "add_adapter" and orphan else "alpha@v9-00000000")


def test_a_death_before_it_is_published(lane: Build) -> None:
    house = lane()
    house.feed("alpha")
    house.learn("alpha")

    def dies(name: str) -> None:
        if name == "publish":
            raise Crash

    house.router.on_call = dies
    house.feed("beta")
    with pytest.raises(Crash):
        house.settle(lambda: house.version("beta") == 1)
    house.router.on_call = lambda _name: None
    house.crash()
    house.learn("beta")
    assert (versions(house), len(house.learner.jobs)) == ({"alpha": 2, "beta": 1}, 2), "it is not trained again"
    house.check_one()


@pytest.mark.parametrize("removed", ["alpha", "gamma"])
def test_a_removal_during_a_training(lane: Build, removed: str) -> None:
    """Nothing of what was removed comes back, in no adapter and no state; what was trained from it is trained again."""
    house = lane()
    house.feed("alpha")
    house.learn("alpha")
    house.feed("gamma")
    house.learn("gamma")

    def removes(domain: str) -> None:
        if domain == "beta" and len(house.learner.jobs) == 2:
            house.coordinator.remove(removed)

    house.trainer.before = removes
    house.feed("beta")
    house.learn("beta", 2)
    (left,) = {"alpha", "gamma"} - {removed}
    assert set(versions(house)) == {left, "beta"} and house.trainings() == ["beta"]
    assert [job.domain for job in house.learner.jobs] == ["alpha", "gamma", "beta", "beta"]
    assert house.learner.jobs[-1].state is None
    assert {each.domain for each in house.learner.jobs[-1].incumbents} == {left}
    house.check_one()
    (refused,) = [adapter for adapter in house.registry.adapters("beta") if adapter.version == 1]
    with pytest.raises(UnknownDomain):
        house.coordinator.pin("beta", refused.name)


def test_what_others_would_forget_is_published_by_nobody(lane: Build) -> None:
    house = lane()
    house.feed("alpha")
    house.learn("alpha")
    before, house.learner.forgets = house.current, {"alpha"}
    house.feed("beta")
    house.settle(lambda: house.is_in("beta", "rejected"))
    assert house.current == before and len(house.registry.adapters()) == 2
    (rejected,) = house.registry.adapters("beta")
    assert rejected.facts.reason.startswith("exam of alpha segment 1: exact match 1.00 -> 0.00")
    assert (rejected.facts.together, rejected.facts.state) == ((), "")
    house.learner.forgets = set()
    house.feed("beta", start=20)
    house.learn("beta", 2)
    assert house.trainings() == ["alpha", "beta"] and versions(house) == {"alpha": 2, "beta": 2}
    house.check_one()


@pytest.mark.parametrize("changes_base", [False, True])
def test_what_no_replica_can_load_goes_back_and_is_tried_again_together(lane: Build, changes_base: bool) -> None:
    house = lane()
    house.learner.changes_base = changes_base
    house.feed("alpha")
    house.learn("alpha")
    first = house.current
    shelf = house.replicas.shelves[0]
    shelf.refuses = {"beta"}
    house.feed("beta")
    house.settle(lambda: bool(house.current.withdrawn))
    assert house.current.number == first.number + 2, "back in one step"
    assert (house.current.routes, house.current.base) == (first.routes, first.base)
    assert {domain: name.split("-")[0] for domain, name in house.current.withdrawn.items()} == {
        "alpha": "alpha@v2",
        "beta": "beta@v1",
    }
    shelf.refuses = set()
    house.settle(lambda: not house.current.withdrawn)
    assert versions(house) == {"alpha": 2, "beta": 1} and house.trainings() == ["alpha", "beta"]
    assert bool(house.current.base.delta) is changes_base
    house.check_one()


def test_under_a_pin_it_waits_and_is_gone_on_from(lane: Build) -> None:
    house = lane()
    house.feed("alpha")
    house.learn("alpha")
    house.coordinator.pin("alpha")
    house.feed("beta")
    house.learn("beta")
    assert versions(house) == {"alpha": 1, "beta": 1}
    assert house.current.withdrawn["alpha"].startswith("alpha@v2")
    house.feed("gamma")
    house.learn("gamma")
    incumbents = {each.domain: each.adapter.name[:8] for each in house.learner.jobs[-1].incumbents}
    assert incumbents == {"alpha": "alpha@v2", "beta": "beta@v1-"}
    assert house.current.withdrawn["alpha"].startswith("alpha@v3")
    house.coordinator.unpin("alpha")
    assert versions(house) == {"alpha": 3, "beta": 2, "gamma": 1}
    house.check_one()


def test_a_changed_base_serves_with_what_was_judged_on_it_alone(lane: Build) -> None:
    house = lane()
    house.learner.changes_base = True
    house.feed("alpha")
    house.learn("alpha")
    first = house.current
    house.feed("beta")
    house.learn("beta")
    assert house.current.base.delta not in ("", first.base.delta)
    assert house.learner.jobs[-1].base_delta == house.registry.bases.path(first.base.delta)
    house.check_one()
    with pytest.raises(UnknownDomain, match="on which there is nothing of beta"):
        house.coordinator.rollback("alpha")
    assert house.current.routes["alpha"].version == 2
    house.crash()
    house.check_one()
    house.coordinator.remove("alpha")
    assert house.current.base.delta == house.adapters()[0].facts.base_delta


def test_a_damaged_state_is_said_and_begun_anew(lane: Build) -> None:
    house = lane()
    house.feed("alpha")
    house.learn("alpha")
    state = house.registry.states.path(house.current.states["sharing"]) / "trainings.json"
    state.write_text(state.read_text().replace("alpha", "omega"))
    house.feed("beta")
    house.learn("beta")
    assert house.trainings() == ["beta"]
    (beta,) = house.registry.adapters("beta")
    assert "trained without: " in beta.facts.reason and "restore the folder" in beta.facts.reason


def test_a_version_of_another_domain_that_can_not_be_read_stops_no_training(lane: Build) -> None:
    house = lane()
    house.feed("alpha")
    house.learn("alpha")
    (house.adapters()[0].path / "anabranch.json").write_text("{")
    house.replicas.shelves.clear()  # These read everything anew each time; a replica has it loaded.
    house.feed("beta")
    house.learn("beta")
    assert versions(house) == {"alpha": 1, "beta": 1}
    (beta,) = house.registry.adapters("beta")
    assert "trained without: adapter alpha@v1" in beta.facts.reason and house.learner.jobs[-1].incumbents == ()


def test_the_files_of_states_and_bases_go_with_the_manifests_that_name_them(lane: Build) -> None:
    house = lane()
    house.learner.changes_base = True
    for number, domain in enumerate(("alpha", "beta", "gamma")):
        house.feed(domain, start=number * 20)
        house.learn(domain)
    registry = house.registry
    before: Sequence[Manifest] = registry.manifests()
    assert len(set(registry.states.names())) == len(set(registry.bases.names())) == 3
    registry.prune(1, 1, 1)
    assert list(registry.states.names()) == [before[-1].states["sharing"]]
    assert list(registry.bases.names()) == [before[-1].base.delta]
    with pytest.raises(RegistryError, match="expected a folder, got none"):
        registry.states.verify(before[0].states["sharing"])
