"""Adapters made elsewhere, from the offer to the version: judged like what was trained, counted once, found again after
every death, and refused with a reason that is written down."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import safetensors.numpy
import torch
from safetensors.torch import load_file, save_file

from actors.errors import ActorError, DomainTaken, OfferRefused, UnknownDomain
from actors.offers import LEARNER
from learning.adapter_check import AdapterCheck
from learning.contract import Example, Learner, Progress, TrainingJob, TrainingResult
from learning.errors import CheckpointError, LearningError
from learning.template import PromptTemplate
from registry.errors import StoreAway
from registry.offers import Offers
from streaming.records import EndOfDomain
from tests.actors.house import Crash, House, records_of, training
from tests.actors.lane import LaneHouse
from tests.learning.elsewhere import CONFIG, CORRUPT, WEIGHTS

Build = Callable[..., House]
ALPHA = EndOfDomain(domain="alpha")
ROWS = [*records_of("alpha", 24), ALPHA]


@pytest.fixture(autouse=True)
def checked(base: Path, monkeypatch: pytest.MonkeyPatch) -> AdapterCheck:
    check = AdapterCheck(str(base), max_rank=4)
    monkeypatch.setattr(House, "check", check)
    return check


@pytest.fixture(scope="module")
def brought(learner: Learner, template: PromptTemplate, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A good adapter: trained on other examples of alpha, by nobody of the house."""
    folder = tmp_path_factory.mktemp("brought")
    examples = [
        Example(each.id, template.render(each.messages_or_prompt()), each.completion)
        for each in records_of("alpha", 32, start=100)
    ]
    learner.train(TrainingJob("alpha", 1, examples[:24], examples[24:], folder, seed=5))
    return folder


@pytest.fixture
def bad(brought: Path, tmp_path: Path) -> Path:
    """One that fits, and answers worse than the base."""
    folder = Path(shutil.copytree(brought, tmp_path / "bad"))
    tensors = load_file(folder / WEIGHTS)
    save_file({name: -each if "lora_B" in name else each for name, each in tensors.items()}, folder / WEIGHTS)
    return folder


def offer(house: House, folder: Path, domain: str = "alpha") -> str:
    """As the command line uploads it."""
    checked = House.check.folder(folder, ("b" * 64, ""), [])  # type: ignore[union-attr]
    return Offers(house.registry.storage).put(domain, checked.config, checked.weights)


def take(house: House, folder: Path, domain: str = "alpha", note: str = "") -> str:
    return house.coordinator.add_adapter(domain, offer(house, folder, domain), note).reason


def uploads(house: House) -> list[str]:
    return [each.name for each in house.registry.storage.folders("offered")]


def check_served(house: House, brought: Path, version: int = 1) -> None:
    """The replicas have the very tensors that were offered, and the router every example once."""
    adapter = house.registry.adapters("alpha")[-1]
    assert (adapter.facts.learner, adapter.version, adapter.facts.status) == (LEARNER, version, "accepted")
    offered = safetensors.numpy.load_file(brought / WEIGHTS)
    served = house.replicas.shelves[0].adapters["alpha"]
    assert served.keys() == offered.keys() and all((served[name] == offered[name]).all() for name in offered)
    assert uploads(house) == [] and Offers(house.registry.storage).all() == []


def test_it_is_judged_published_and_routed_to(build: Build, brought: Path) -> None:
    house = build()
    assert "no examples wait so far" in take(house, brought, note="from  the\nother team")
    house.settle(lambda: True)
    assert house.registry.adapters() == [], "it waits for its examples"
    house.send(ROWS)
    house.learn("alpha")
    check_served(house, brought)
    facts = house.registry.adapters("alpha")[0].facts
    assert facts.reason.startswith("held-out loss") and facts.reason.endswith("; from the other team")
    assert (facts.train_examples, facts.held_out_examples, facts.exam_rows, facts.figures["steps"]) == (18, 6, 6, 0.0)
    assert house.current.reason == f"{house.served('alpha')} added"
    house.check_exact(training(records_of("alpha", 24)))


def test_twice_is_once(build: Build, brought: Path) -> None:
    house = build()
    first = take(house, brought)
    assert take(house, brought) == first
    house.send(ROWS)
    house.drain()
    assert "18 examples and 6 held-out ones wait" in take(house, brought)
    house.learn("alpha")
    number = house.current.number
    assert "is in service, with this adapter" in take(house, brought)
    house.send(ROWS)
    house.settle(lambda: house.is_drained() and not house.tick())
    assert (house.current.number, len(house.registry.adapters())) == (number, 1)
    house.check_exact(training(records_of("alpha", 24)))


@pytest.mark.parametrize("call", ["seal", "publish", "versions"])
def test_a_death_at_any_step_loses_and_repeats_nothing(build: Build, brought: Path, call: str) -> None:
    house = build()
    take(house, brought)
    house.crash()
    house.send(ROWS)
    house.drain()

    def die(name: str) -> None:
        if name == call:
            raise Crash(call)

    house.router.on_call = die
    try:
        for _ in range(3):
            house.tick()
    except Crash:
        pass
    house.crash()
    house.router.on_call = lambda _name: None
    house.learn("alpha")
    house.settle(lambda: not house.tick())
    check_served(house, brought)
    assert len(house.registry.adapters()) == 1
    house.check_exact(training(records_of("alpha", 24)))


def test_a_death_between_publication_and_forgetting(
    build: Build, brought: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is in service is not made again of what was left behind."""
    house = build()
    take(house, brought)
    with monkeypatch.context() as patched:
        patched.setattr(house.coordinator._offers, "done", lambda adapter: None)
        house.send(ROWS)
        house.learn("alpha")
    assert uploads(house)
    house.crash()
    house.send([*records_of("alpha", 24, start=24), ALPHA])
    house.learn("alpha", 2)
    adapters = house.registry.adapters("alpha")
    assert [each.facts.learner for each in adapters] == [LEARNER, "lora"]
    assert uploads(house) == []


def test_the_gate_rejects_and_says_why_and_the_domain_may_be_learned(build: Build, bad: Path) -> None:
    house = build()
    take(house, bad)
    house.send(ROWS)
    house.settle(lambda: bool(house.registry.adapters()))
    facts = house.registry.adapters("alpha")[0].facts
    assert (facts.learner, facts.status) == (LEARNER, "rejected") and "does not beat the base's" in facts.reason
    assert uploads(house) == [] and house.version("alpha") is None
    house.coordinator.learn("alpha")
    house.learn("alpha", 2)
    assert house.registry.adapters("alpha")[-1].facts.learner == "lora"
    house.check_exact(training(records_of("alpha", 24)))


def test_it_takes_the_place_of_a_segment_or_stands_beside(two_versions: House, brought: Path) -> None:
    """Alpha is served already: the offered one is held against its segment as an update is."""
    house = two_versions
    take(house, brought)
    house.send([*records_of("alpha", 24, start=48), ALPHA])
    house.settle(lambda: len(house.registry.adapters("alpha")) == 3)
    facts = house.registry.adapters("alpha")[2].facts
    assert (
        facts.learner == LEARNER and {"exam_before_loss", "exam_after_loss", "incumbent_loss"} <= facts.figures.keys()
    )
    assert "incumbent" in facts.reason or "exam of alpha" in facts.reason or "exact" in facts.reason


def test_a_pinned_domain_takes_none(two_versions: House, brought: Path) -> None:
    house = two_versions
    house.coordinator.pin("alpha")
    with pytest.raises(DomainTaken, match=r"alpha is pinned to alpha@v2.*unpin it"):
        take(house, brought)
    house.coordinator.unpin("alpha")
    assert "is taken" in take(house, brought)


def test_a_domain_that_is_learned_takes_none(build: Build, brought: Path) -> None:
    house, said = build(), []

    def at_work(domain: str) -> None:
        with pytest.raises(DomainTaken, match="alpha v1 is being made; add the adapter again"):
            take(house, brought)
        said.append(domain)

    house.trainer.before = at_work
    house.send(ROWS)
    house.learn("alpha")
    assert said == ["alpha"]
    assert house.registry.adapters("alpha")[0].facts.learner == "lora"


def test_a_removal_takes_the_offer_along(build: Build, brought: Path) -> None:
    house = build()
    take(house, brought)
    house.send(records_of("alpha", 24))
    house.drain()
    house.coordinator.remove("alpha")
    assert uploads(house) == [] and Offers(house.registry.storage).get("alpha") is None
    take(house, brought)
    house.send([*records_of("alpha", 24, start=24), ALPHA])
    house.settle(lambda: house.version("alpha") is not None)
    assert house.registry.adapters("alpha")[-1].facts.learner == LEARNER
    take(house, brought, "beta")
    assert house.coordinator.remove("beta") == house.current
    with pytest.raises(UnknownDomain):
        house.coordinator.remove("beta")


def test_a_removal_while_it_is_judged(build: Build, brought: Path) -> None:
    house = build()
    take(house, brought)
    house.trainer.before = lambda domain: house.coordinator.remove(domain) and None
    house.send(ROWS)
    house.settle(lambda: house.is_drained() and not house.tick())
    assert house.version("alpha") is None and uploads(house) == []


def test_what_the_learner_refuses_is_written_down_and_the_domain_learned(build: Build, brought: Path) -> None:
    house = build()
    take(house, brought)
    house.trainer.fails = [LearningError("it does not fit this base")]
    house.send(ROWS)
    house.learn("alpha")
    found = Offers(house.registry.storage).get("alpha")
    assert found is not None and (found.state, found.reason) == ("refused", "it does not fit this base")
    assert house.registry.adapters("alpha")[0].facts.learner == "lora" and uploads(house) == []


def test_files_that_rot_before_they_are_judged(build: Build, brought: Path) -> None:
    house = build()
    name = offer(house, brought)
    house.coordinator.add_adapter("alpha", name, "from the other team")
    path = house.home / "registry" / "offered" / name / WEIGHTS
    path.write_bytes(path.read_bytes()[:-1] + b"x")
    house.send(ROWS)
    house.learn("alpha")
    found = Offers(house.registry.storage).get("alpha")
    assert found is not None and found.state == "refused" and "not what its name says" in found.reason
    facts = house.registry.adapters("alpha")[0].facts
    assert facts.learner == "lora" and "other team" not in facts.reason


def test_a_decision_that_rots_stops_nobody(build: Build, brought: Path) -> None:
    house = build()
    take(house, brought)
    (house.home / "registry" / "offers" / "alpha.json").write_text("{")
    house.send(ROWS)
    house.learn("alpha")
    assert house.registry.adapters("alpha")[0].facts.learner == "lora"


TEN = (
    "shape of B",
    "NaN",
    "infinity",
    "a thousandfold norm",
    "path in a name",
    "missing B",
    "integers",
    "cut short",
    "DoRA",
    "head",
    "name twice",
    "rank too high",
)


@pytest.mark.parametrize("name", TEN)
def test_whoever_uploads_is_not_trusted(build: Build, brought: Path, tmp_path: Path, name: str) -> None:
    """Put where the registry lies past every check of the command line, it is refused there, in words that stay."""
    house = build()
    folder = Path(shutil.copytree(brought, tmp_path / "corrupt"))
    spoil, _ = CORRUPT[name]
    spoil(folder)
    offers = Offers(house.registry.storage)
    upload = offers.put("alpha", (folder / CONFIG).read_bytes(), (folder / WEIGHTS).read_bytes())
    with pytest.raises(OfferRefused) as refused:
        house.coordinator.add_adapter("alpha", upload)
    found = offers.get("alpha")
    assert found is not None and (found.state, found.reason) == ("refused", str(refused.value))
    assert uploads(house) == []
    house.send(ROWS)
    house.learn("alpha")
    assert [each.facts.learner for each in house.registry.adapters()] == ["lora"]


def test_a_refused_one_does_not_push_out_what_waits(build: Build, brought: Path, bad: Path) -> None:
    house = build()
    take(house, brought)
    tensors = load_file(bad / WEIGHTS)
    save_file({name: torch.full_like(each, torch.nan) for name, each in tensors.items()}, bad / WEIGHTS)
    offers = Offers(house.registry.storage)
    upload = offers.put("alpha", (bad / CONFIG).read_bytes(), (bad / WEIGHTS).read_bytes())
    with pytest.raises(OfferRefused, match="finite"):
        house.coordinator.add_adapter("alpha", upload)
    house.send(ROWS)
    house.learn("alpha")
    check_served(house, brought)


@pytest.mark.parametrize(
    "name",
    ["", "alpha", "beta@offer-0123456789abcdef", "alpha@offer-0123456789abcdef", "../alpha", "alpha@offer-x/../.."],
)
def test_names_of_no_upload(build: Build, name: str) -> None:
    with pytest.raises(OfferRefused, match=r"expected one for alpha|is not there"):
        build().coordinator.add_adapter("alpha", name)


def test_names_that_no_domain_has(build: Build, brought: Path) -> None:
    house = build()
    with pytest.raises(OfferRefused, match="base"):
        take(house, brought, "base")
    assert Offers(house.registry.storage).all() == []


def test_another_configuration_than_the_check_writes(build: Build, brought: Path) -> None:
    house = build()
    config = json.loads((brought / CONFIG).read_text())
    upload = Offers(house.registry.storage).put(
        "alpha", json.dumps({**config, "revision": "x"}).encode(), (brought / WEIGHTS).read_bytes()
    )
    with pytest.raises(OfferRefused, match="as this check writes it"):
        house.coordinator.add_adapter("alpha", upload)


def test_a_later_offer_takes_the_place_of_one_that_waits(build: Build, brought: Path, bad: Path) -> None:
    house = build()
    take(house, bad)
    house.crash()
    take(house, brought)
    assert len(uploads(house)) == 1
    house.send(ROWS)
    house.learn("alpha")
    check_served(house, brought)


@pytest.mark.parametrize(
    "error", [StoreAway("the bucket is away"), OSError("a stale handle"), CheckpointError("no base")]
)
def test_what_cannot_be_read_now_is_no_refusal(
    build: Build, brought: Path, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    house = build()
    name = offer(house, brought)

    def fail(*_: object, **__: object) -> None:
        raise error

    with monkeypatch.context() as patched:
        if isinstance(error, CheckpointError):
            patched.setattr(AdapterCheck, "content", fail)
        else:
            patched.setattr(Offers, "read", fail)
        with pytest.raises(ActorError) as caught:
            house.coordinator.add_adapter("alpha", name)
        assert not isinstance(caught.value, OfferRefused)
    assert Offers(house.registry.storage).all() == []
    assert "is taken" in house.coordinator.add_adapter("alpha", name).reason


def test_storage_that_is_away_when_it_is_judged_is_waited_for(
    build: Build, brought: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    house = build()
    take(house, brought)
    read, left = Offers.read, [2]

    def away(offers: Offers, *args: object) -> object:
        if left[0]:
            left[0] -= 1
            raise StoreAway("the bucket is away")
        return read(offers, *args)  # type: ignore[arg-type]

    monkeypatch.setattr(Offers, "read", away)
    house.send(ROWS)
    house.learn("alpha")
    check_served(house, brought)


# -- one lane ---------------------------------------------------------------------------------------------------------


class Judging:
    """A method of one lane that also judges what is offered."""

    name = "sharing"

    def __init__(self, sharing: Learner, judging: Learner) -> None:
        self._sharing, self._judging = sharing, judging

    def train(self, job: TrainingJob, on_progress: Callable[[Progress], None] | None = None) -> TrainingResult:
        return (self._judging if job.offered else self._sharing).train(job, on_progress)


def test_what_was_judged_beside_something_else_is_judged_again(
    lane: Callable[..., LaneHouse], learner: Learner, brought: Path
) -> None:
    house = lane()
    House.employ(house, Judging(house.learner, learner))
    house.feed("beta")
    house.settle(lambda: house.version("beta") == 1)
    take(house, brought)
    removed: list[str] = []

    def remove_once(domain: str) -> None:
        if not removed:
            removed.append("beta")
            house.coordinator.remove("beta")

    house.trainer.before = remove_once
    house.send(ROWS)
    house.learn("alpha", 2)
    check_served(house, brought, 2)
    assert removed == ["beta"] and house.trainer.asked[-1][:2] == ("alpha", 2)


def test_a_method_that_knows_nothing_of_offers_trains_after_a_refusal(
    lane: Callable[..., LaneHouse], brought: Path
) -> None:
    house = lane()
    take(house, brought)
    house.feed("alpha")
    house.settle(lambda: house.version("alpha") is not None)
    found = Offers(house.registry.storage).get("alpha")
    assert found is not None and found.state == "refused" and "expected the adapter that was offered" in found.reason
    assert house.registry.adapters("alpha")[-1].facts.learner == "sharing"
