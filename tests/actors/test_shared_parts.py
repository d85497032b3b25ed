"""SETA-style trainings through the whole of one process: what serves shares the part that the last training left."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from actors.candidates import Method
from actors.coordinator import CoordinatorOptions
from learning.seta import SetaLearner
from learning.seta_options import SetaOptions
from learning.shared_part import SharedPart, shared_rank_of
from learning.template import PromptTemplate
from registry.adapters import Adapter
from streaming.records import EndOfDomain
from tests.actors.house import House, HouseParts, records_of

pytestmark = pytest.mark.slow


class SetaHouse(House):
    def coordinator_options(self) -> CoordinatorOptions:
        method = Method("seta", seed=1, one_lane=SetaOptions.one_lane)
        return replace(super().coordinator_options(), method=method)

    def adapters(self) -> dict[str, Adapter]:
        routes = self.current.routes.items()
        return {domain: self.registry.adapter(route.adapter) for domain, route in routes}


@pytest.fixture(scope="module")
def seta(base: Path, template: PromptTemplate) -> SetaLearner:
    options = SetaOptions(
        frozen_layers=1,
        rank=4,
        shared_rank=2,
        alpha=8.0,
        targets=("q_proj", "v_proj", "up_proj"),
        learning_rate=1e-2,
        batch_size=8,
        max_steps=20,
        evaluate_every=10,
        max_tokens=64,
        threads=1,
    )
    return SetaLearner(str(base), template, options)


@pytest.fixture
def house(parts: HouseParts, seta: SetaLearner, tmp_path: Path) -> Iterator[SetaHouse]:
    made = SetaHouse(tmp_path / "home", replace(parts, learner=seta))
    yield made
    made.down()


def shared(adapter: Adapter) -> dict[str, torch.Tensor]:
    """The shared rows and columns of a version, as the state has them."""
    assert shared_rank_of(adapter.path) == 2
    tensors = load_file(adapter.path / "adapter_model.safetensors")
    return {n: t[:2] if ".lora_A." in n else t[:, :2] * 2.0 for n, t in tensors.items()}


def test_three_domains_one_after_another(house: SetaHouse) -> None:
    sent = []
    for number, domain in enumerate(("alpha", "beta", "gamma"), start=1):
        records = records_of(domain, 24, answer="ok"[number % 2 :])
        sent += [record for record in records if record.split == "train"]
        house.send([*records, EndOfDomain(domain=domain)])
        house.settle(lambda domain=domain: house.version(domain) == 1 and not house.waiting(domain), timeout_s=120.0)
    adapters = house.adapters()
    assert {domain: adapter.version for domain, adapter in adapters.items()} == {"alpha": 3, "beta": 2, "gamma": 1}
    state = SharedPart.read(house.registry.states.path(house.current.states["seta"]))
    for adapter in adapters.values():
        assert all(torch.equal(part, state.tensors[name]) for name, part in shared(adapter).items())
    first, last = (house.registry.adapters("alpha")[at] for at in (0, -1))
    assert not all(torch.equal(part, shared(last)[name]) for name, part in shared(first).items())
    assert last.facts.figures["exam_after_exact_match"] >= last.facts.figures["exam_before_exact_match"] - 0.02
    house.check_exact(sent)
    house.crash()
    assert house.adapters() == adapters
