"""What may go wrong between trainings that build on each other: nothing is served by halves, undone or stuck."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from actors.change import Change
from actors.errors import UnknownDomain
from actors.spool_file import delete_file
from learning.contract import TrainingJob, TrainingResult
from registry.errors import RegistryError
from tests.actors.house import Crash, records_of
from tests.actors.lane import LaneHouse, versions
from tests.actors.sharing import shared_row

Build = Callable[..., LaneHouse]


def grown(lane: Build, *domains: str, changes_base: bool = False, keeps_state: bool = True) -> LaneHouse:
    """A house that has learned these domains, one after another."""
    house = lane()
    house.learner.changes_base, house.learner.keeps_state = changes_base, keeps_state
    for domain in domains:
        house.feed(domain)
        house.learn(domain)
    return house


def withdrawn(house: LaneHouse) -> dict[str, str]:
    return {domain: name.split("-")[0] for domain, name in house.current.withdrawn.items()}


@pytest.mark.parametrize("changes_base", [False, True])
def test_what_went_back_together_is_never_served_by_halves(lane: Build, changes_base: bool) -> None:
    house = grown(lane, "alpha", "gamma", changes_base=changes_base)
    house.replicas.shelves[0].refuses = {"beta"}
    house.feed("beta")
    house.settle(lambda: bool(house.current.withdrawn))
    assert withdrawn(house) == {"alpha": "alpha@v3", "beta": "beta@v1", "gamma": "gamma@v2"}
    house.settle(lambda: house.current.number > 6)
    house.replicas.shelves[0].refuses = set()
    house.settle(lambda: not house.current.withdrawn)
    assert versions(house) == {"alpha": 3, "beta": 1, "gamma": 2}
    house.check_never_half()


def test_what_goes_on_while_it_waits_to_be_loaded_goes_on_from_it(lane: Build) -> None:
    house = grown(lane, "alpha", changes_base=True)
    shelf = house.replicas.shelves[0]
    shelf.refuses = {"beta"}
    house.feed("beta")
    house.settle(lambda: bool(house.current.withdrawn))
    waiting = house.registry.adapter(house.current.withdrawn["alpha"]).facts.base_delta
    assert waiting != house.current.base.delta
    house.feed("gamma")
    house.settle(lambda: len(house.learner.jobs) == 3 and house.is_in("gamma", "failed"))
    job = house.learner.jobs[-1]
    assert job.base_delta == house.registry.bases.path(waiting)
    assert {shared_row(each.adapter) for each in job.incumbents} == {shared_row(job.base_delta)}
    shelf.refuses = set()
    house.settle(lambda: not house.current.withdrawn)
    assert versions(house) == {"alpha": 3, "beta": 2, "gamma": 1}
    house.check_never_half()


def test_a_base_that_no_replica_takes_goes_back_to_none(lane: Build) -> None:
    house = lane()
    house.learner.changes_base = True
    shelf = house.replicas.shelves[0]
    shelf.takes_changes = False
    house.feed("alpha")
    house.settle(lambda: house.registry.current() is not None)
    assert withdrawn(house) == {"alpha": "alpha@v1"}
    assert (house.current.routes, house.current.base.delta) == ({}, "")
    assert shelf.number == house.current.number, "replicas go on with what they can take"
    shelf.takes_changes = True
    house.settle(lambda: not house.current.withdrawn)
    house.check_never_half()


def test_a_pin_on_what_went_back_can_be_cleared(lane: Build) -> None:
    house = grown(lane, "alpha", "gamma", changes_base=True)
    house.replicas.shelves[0].refuses = {"beta"}
    house.feed("beta")
    house.settle(lambda: bool(house.current.withdrawn))
    house.coordinator.pin("alpha")
    house.replicas.shelves[0].refuses = set()
    house.settle(lambda: house.is_in("beta", "failed"))
    assert house.version("beta") is None, "a pin holds the base"
    house.coordinator.unpin("alpha")
    house.settle(lambda: not house.current.withdrawn)
    assert versions(house) == {"alpha": 3, "beta": 1, "gamma": 2}
    house.check_never_half()


def test_the_end_of_a_pin_leaves_other_pins(lane: Build) -> None:
    house = grown(lane, "alpha", "gamma")
    house.coordinator.pin("alpha")
    house.coordinator.pin("gamma")
    house.feed("beta")
    house.learn("beta")
    assert withdrawn(house) == {"alpha": "alpha@v3", "gamma": "gamma@v2"}
    house.coordinator.unpin("alpha")
    assert withdrawn(house) == {"gamma": "gamma@v2"} and house.current.routes["gamma"].pinned
    assert versions(house) == {"alpha": 3, "beta": 1, "gamma": 1}


def test_a_pin_holds_a_change_of_the_base_and_that_is_said(lane: Build) -> None:
    house = grown(lane, "alpha", changes_base=True)
    house.coordinator.pin("alpha")
    house.feed("beta")
    house.settle(lambda: house.is_in("beta", "failed"))
    state = house.state("beta")
    assert state is not None and "alpha@v1" in state.detail and "never mixes" in state.detail
    for _ in range(3):
        house.wait(700)
        house.tick()
    assert len(house.learner.jobs) == 2, "it is tried again, and not trained again"
    house.coordinator.unpin("alpha")
    house.settle(lambda: house.version("beta") == 1)
    assert len(house.learner.jobs) == 2
    house.check_never_half()


@pytest.mark.parametrize("keeps_state", [True, False])
@pytest.mark.parametrize("fed_again", [True, False])
def test_a_domain_that_was_removed_does_not_come_back_with_another(
    lane: Build, keeps_state: bool, fed_again: bool
) -> None:
    """The removal before has dropped the state, so that the method's state can't tell that anything has changed."""
    house = grown(lane, "alpha", "gamma", keeps_state=keeps_state)
    house.coordinator.remove("gamma")

    def removes(domain: str) -> None:
        if len(house.learner.jobs) == 2:
            house.coordinator.remove("alpha")
            if fed_again:
                house.feed("alpha", start=40)
                house.drain()

    house.trainer.before = removes
    house.feed("beta")
    house.settle(lambda: house.version("beta") is not None and not house.waiting("alpha"))
    assert [job.domain for job in house.learner.jobs[:3]] == ["alpha", "gamma", "beta"]
    assert house.learner.jobs[3].incumbents == ()
    later = {"alpha", "beta"} if fed_again else {"beta"}
    assert {job.domain for job in house.learner.jobs[3:]} == later == set(versions(house))
    house.check_never_half()


@pytest.mark.parametrize("keeps_state", [True, False])
def test_what_could_not_be_published_undoes_nothing_that_came_since(lane: Build, keeps_state: bool) -> None:
    house = grown(lane, "alpha", "beta", keeps_state=keeps_state)
    failing = [OSError("the disk is full")]

    def fails(name: str) -> None:
        if name == "publish" and failing:
            raise failing.pop()

    house.router.on_call = fails
    house.feed("alpha", "beta", start=20)
    house.settle(lambda: len(house.learner.jobs) == 5 and not house.waiting("alpha"))
    assert [job.domain for job in house.learner.jobs[2:]] == ["alpha", "beta", "alpha"]
    last = house.learner.jobs[-1]
    assert len({shared_row(each.adapter) for each in last.incumbents}) == 1
    before = {each.adapter.name.split("-")[0] for each in last.incumbents}
    assert before == {f"alpha@v{house.current.routes['alpha'].version - 1}", f"beta@v{versions(house)['beta'] - 1}"}
    house.check_never_half()


def test_a_version_is_younger_than_those_that_came_with_others_while_it_waited(lane: Build) -> None:
    house = grown(lane, "alpha")
    house.trainer.fails = [OSError("no memory")]
    house.feed("alpha", start=20)
    house.settle(lambda: house.is_in("alpha", "failed"))
    house.feed("beta")
    house.settle(lambda: len(house.learner.jobs) == 3 and not house.waiting("alpha"))
    assert [job.domain for job in house.learner.jobs] == ["alpha", "beta", "alpha"]
    assert house.learner.jobs[-1].incumbents[0].adapter.name.startswith("alpha@v3-"), "which came with beta"
    assert house.current.routes["alpha"].version == 4
    assert house.coordinator.rollback("alpha").routes["alpha"].version == 3


def test_what_came_behind_the_marker_is_not_in_what_is_trained_again(lane: Build) -> None:
    house = grown(lane, "alpha")

    def removes(domain: str) -> None:
        if domain == "beta" and len(house.learner.jobs) == 1:
            house.coordinator.remove("alpha")
            house.send(records_of("beta", 8, start=40))
            house.drain()

    house.trainer.before = removes
    house.feed("beta")
    house.settle(lambda: house.version("beta") is not None)
    first, again = house.learner.jobs[1:]
    assert [e.id for e in again.train] == [e.id for e in first.train]
    assert house.router.open()["beta"].train == 6


def test_a_death_between_finding_it_out_of_date_and_training_it_again(lane: Build) -> None:
    house = grown(lane, "alpha")
    asked: list[str] = []

    def removes(domain: str) -> None:
        house.coordinator.remove("alpha")
        house.trainer.before, house.router.on_call = (lambda _domain: None), dies

    def dies(name: str) -> None:
        asked.append(name)
        if len(asked) > 1 and asked[-2] in {"renumber", "reopen"}:
            raise Crash

    house.trainer.before = removes
    house.feed("beta")
    with pytest.raises(Crash):
        house.settle(lambda: house.version("beta") is not None)
    house.router.on_call = lambda _name: None
    house.coordinator.stop()
    house.start_coordinator()  # The router lives on.
    house.settle(lambda: house.version("beta") is not None)
    assert house.learner.jobs[-1].incumbents == ()


def test_nobody_goes_back_to_half_of_a_training(lane: Build) -> None:
    """A domain of two segments gets two versions by one training: the one that serves beside the other counts."""
    house = grown(lane, "alpha")
    house.learner.forgets = {"alpha"}
    house.feed("alpha", start=20)
    house.settle(lambda: len(house.current.routes["alpha"].segments) == 2)
    house.learner.forgets = set()
    house.feed("alpha", start=40)
    house.settle(lambda: len(house.learner.jobs) == 3 and not house.waiting("alpha"))
    first = house.current.routes["alpha"]
    house.feed("beta")
    house.learn("beta")
    second = house.current.routes["alpha"]
    house.feed("alpha", start=60)
    house.settle(lambda: len(house.learner.jobs) == 5 and not house.waiting("alpha"))
    house.check_one()
    for before in (second, first):
        back = house.coordinator.rollback("alpha").routes["alpha"]
        assert back.names == before.names, "as it was in service"


@pytest.mark.parametrize("damaged", [False, True])
def test_a_base_is_not_changed_beside_what_can_not_be_read(lane: Build, damaged: bool) -> None:
    """No adapter of it could be made, so the domain could not be served on the new base."""
    house = grown(lane, "alpha", changes_base=True)
    facts = house.adapters()[0].path / "anabranch.json"
    whole = facts.read_text()
    facts.write_text("{")
    house.replicas.shelves.clear()
    house.feed("beta")
    house.settle(lambda: house.is_in("beta", "failed"))
    state = house.state("beta")
    assert state is not None and "no adapter on it of alpha" in state.detail
    assert house.registry.survey("beta")[0] == [] and list(house.registry.bases.names()) == [house.current.base.delta]
    if not damaged:
        facts.write_text(whole)
    else:
        house.coordinator.remove("alpha")
    house.settle(lambda: house.version("beta") is not None)


class Careless:
    """A learner that names what is not its own."""

    name = "sharing"

    def __init__(self, inner: object, spoil: Callable[[TrainingJob, TrainingResult], TrainingResult]) -> None:
        self._inner, self._spoil = inner, spoil

    def train(self, job: TrainingJob, on_progress: object = None) -> TrainingResult:
        return self._spoil(job, self._inner.train(job))  # type: ignore[attr-defined,no-any-return]


def _with(place: int, folder: Callable[[TrainingJob], Path]) -> Callable[[TrainingJob, TrainingResult], TrainingResult]:
    def spoil(job: TrainingJob, result: TrainingResult) -> TrainingResult:
        adapters = list(result.adapters)
        adapters[place] = replace(adapters[place], folder=folder(job))
        return replace(result, adapters=tuple(adapters))

    return spoil


@pytest.mark.parametrize(
    "spoil",
    [
        lambda job, result: replace(result, state=job.state),
        lambda job, result: replace(result, base_delta=job.base_delta),
        _with(1, lambda job: job.incumbents[0].adapter),
        _with(0, lambda job: job.output / ".." / ".."),
    ],
    ids=["state", "base", "adapter", "above"],
)
def test_what_a_learner_names_that_is_not_its_own_is_left_alone(
    lane: Build, spoil: Callable[[TrainingJob, TrainingResult], TrainingResult]
) -> None:
    house = grown(lane, "alpha", changes_base=True)
    house.trainer.worker._learner = Careless(house.learner, spoil)  # type: ignore[assignment]
    house.feed("beta")
    house.settle(lambda: house.is_in("beta", "failed"))
    state = house.state("beta")
    assert state is not None and "expected folders below" in state.detail
    house.check_one()
    house.registry.adapter(house.current.routes["alpha"].adapter).verify()


@pytest.mark.parametrize("strange", ["state", "missing", "rank"])
def test_nonsense_is_said_and_stops_no_other(lane: Build, strange: str) -> None:
    house = grown(lane, "alpha")

    def spoil(job: TrainingJob, result: TrainingResult) -> TrainingResult:
        if job.domain != "beta":
            return result
        if strange == "state" and result.state is not None:
            (result.state / "momentum.pt").write_bytes(b"x")
        elif strange == "missing":
            (result.adapters[1].folder / "adapter_model.safetensors").unlink()
        else:
            return replace(result, adapters=(replace(result.adapters[0], rank=3), *result.adapters[1:]))
        return result

    house.trainer.worker._learner = Careless(house.learner, spoil)  # type: ignore[assignment]
    house.feed("beta", "gamma")
    house.settle(lambda: house.version("gamma") == 1)
    assert house.is_in("beta", "failed") and house.version("beta") is None
    house.check_never_half()


def test_after_going_back_it_goes_on_from_what_was_in_force_then(lane: Build) -> None:
    house = grown(lane, "alpha", "beta", changes_base=True)
    before = house.registry.manifests()[0]
    house._die()
    while house.current.number > before.number:
        house.registry.go_back()
    delete_file(house.spool_path(0))
    house.up()
    assert (house.current.states, house.current.base.delta) == (before.states, before.base.delta)
    house.settle(lambda: house.version("beta") is not None)
    house.feed("alpha", start=20)
    house.settle(lambda: len(house.trainings()) == 3 and not house.waiting("alpha"))
    assert house.trainings() == ["alpha", "beta", "alpha"]
    house.check_never_half()


def test_a_rollback_takes_the_base_along_and_with_it_all_that_stood_on_it(lane: Build) -> None:
    house = grown(lane, "alpha", "beta", changes_base=True)
    before = house.current
    house.feed("alpha", start=20)
    house.learn("alpha", before.routes["alpha"].version + 1)
    manifest = house.coordinator.rollback("alpha")
    assert (manifest.base, manifest.states) == (before.base, before.states)
    assert {d: r.adapter for d, r in manifest.routes.items()} == {d: r.adapter for d, r in before.routes.items()}
    assert {domain for domain, route in manifest.routes.items() if route.pinned} == {"alpha"}
    assert before.routes["beta"].adapter in manifest.reason
    house.check_one()
    house.coordinator.unpin("alpha")
    house.feed("gamma")
    house.learn("gamma")
    house.check_one()
    assert house.learner.jobs[-1].base_delta == house.registry.bases.path(before.base.delta)


def test_a_base_on_which_a_domain_has_nothing_is_not_gone_back_to(lane: Build) -> None:
    house = grown(lane, "alpha", changes_base=True)
    first = house.current.routes["alpha"].adapter
    house.feed("beta")
    house.learn("beta")
    in_force = house.current
    with pytest.raises(UnknownDomain, match="there is nothing of beta"):
        house.coordinator.rollback("alpha", first)
    assert house.current == in_force
    house.coordinator.remove("beta")
    with pytest.raises(UnknownDomain, match="can't be served"):
        house.coordinator.rollback("alpha", first)
    house.check_one()


@pytest.mark.parametrize("after", ["states", "bases"])
def test_what_others_commit_while_it_is_taken_in_takes_nothing_away(lane: Build, after: str) -> None:
    """A change of the base takes long to be kept, and files are deleted after every commit."""
    house = grown(lane, "alpha")
    house.learner.changes_base = True
    store = getattr(house.registry, after)
    put = store.put

    def meanwhile(source: Path) -> str:
        name: str = put(source)
        for pinned in (True, False):
            house.router.publish(Change("something else", pins={"alpha": pinned}))
        house.registry.prune(1, 20, 3)
        return name

    store.put = meanwhile
    house.feed("beta")
    house.settle(lambda: house.version("beta") is not None)
    assert house.trainings() == ["alpha", "beta"] and house.current.base.delta
    house.registry.bases.verify(house.current.base.delta)
    house.check_never_half()


def test_a_base_is_not_gone_back_from_while_a_domain_waits_that_has_nothing_there(lane: Build) -> None:
    """It could never be loaded beside the base before, and nobody else has learned from its rows."""
    house = three_versions(lane)
    house.replicas.shelves[0].refuses = {"gamma"}
    house.feed("gamma")
    house.settle(lambda: bool(house.current.withdrawn))
    in_force = house.current
    with pytest.raises(UnknownDomain, match="there is nothing of gamma"):
        house.coordinator.rollback("alpha")
    assert house.current == in_force
    house.replicas.shelves[0].refuses = set()
    house.settle(lambda: not house.current.withdrawn)
    assert house.version("gamma") == 1
    house.check_never_half()


@pytest.mark.parametrize("pinned", [False, True])
def test_what_waits_on_the_base_that_is_gone_back_from_waits_no_more(lane: Build, pinned: bool) -> None:
    house = three_versions(lane)
    first = house.registry.numbered("beta", 1)
    assert first is not None
    shelf, prepare = house.replicas.shelves[0], house.replicas.shelves[0].prepare

    def refuses(number: int) -> None:
        if "beta@v3" in str(house.registry.manifest(number).routes["beta"].adapter):
            raise RegistryError("it does not fit")
        prepare(number)

    shelf.prepare = refuses  # type: ignore[method-assign]
    house.feed("beta", start=20)
    house.settle(lambda: bool(house.current.withdrawn))
    assert withdrawn(house) == {"alpha": "alpha@v4", "beta": "beta@v3"}
    if pinned:
        house.coordinator.pin("alpha")
    house.coordinator.rollback("beta", first.name)
    assert withdrawn(house) == {} and {d: r.pinned for d, r in house.current.routes.items()} == {
        "alpha": False,
        "beta": True,
    }
    shelf.prepare = prepare  # type: ignore[method-assign]
    house.coordinator.unpin("alpha")
    house.coordinator.unpin("beta")
    house.feed("gamma")
    house.learn("gamma")
    assert house.trainings() == ["alpha", "beta", "gamma"]
    house.check_never_half()


def three_versions(lane: Build) -> LaneHouse:
    """Alpha, beta and alpha again were learned, each on a base of its own."""
    house = grown(lane, "alpha", "beta", changes_base=True)
    house.feed("alpha", start=20)
    house.learn("alpha", 3)
    assert versions(house) == {"alpha": 3, "beta": 2}
    return house


@pytest.mark.parametrize("alone", [False, True])
def test_a_pin_by_name_takes_the_base_along_as_a_rollback_does(lane: Build, alone: bool) -> None:
    """With the method's state: else the next training would go on from what has learned more than its base."""
    house = grown(lane, "alpha", *([] if alone else ["beta"]), changes_base=True)
    before = house.current
    house.feed("alpha", start=20)
    house.learn("alpha", before.routes["alpha"].version + 1)
    after = house.current
    manifest = house.coordinator.pin("alpha", before.routes["alpha"].adapter)
    assert (manifest.base, manifest.states) == (before.base, before.states)
    assert {d: r.adapter for d, r in manifest.routes.items()} == {d: r.adapter for d, r in before.routes.items()}
    assert {domain for domain, route in manifest.routes.items() if route.pinned} == {"alpha"}
    again = house.coordinator.pin("alpha", after.routes["alpha"].adapter)
    assert (again.base, again.states) == (after.base, after.states), "and forth"
    assert {d: r.adapter for d, r in again.routes.items()} == {d: r.adapter for d, r in after.routes.items()}
    house.check_one()
