"""Updates that never destroy, on the demo's base with the demo's settings: real trainings, judged, published and asked.

Who answers is chosen as a replica chooses, by the published router; whether the answer is right is measured by the
whole completion under teacher forcing. The examples that measure are never sent.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest
from peft import PeftModel
from transformers import AutoModelForCausalLM

from actors.exam import ExamLimits
from configs import loader
from configs.settings import Settings
from learning.completion_loss import CompletionLoss, encode
from learning.contract import Evaluation, Example, Learner
from learning.evaluation import evaluate
from learning.features import FeatureExtractor
from learning.lora import LoraLearner
from learning.output_layer import OutputLayer
from learning.template import PromptTemplate
from learning.token_budget import TokenBudget
from registry.adapters import Adapter
from serving.options import EngineKnobs
from serving.publication import Publication
from serving.score_queue import ScoreQueue
from serving.selection import Choice, Named, by_segment
from streaming.records import EndOfDomain, TaskRecord
from tests.actors.house import BASE, House, HouseParts, limits
from tests.serving.memory_engine import MemoryEngine

_PATIENCE_S = 900.0
"""For one training, on a machine that has much else to do."""
pytestmark = [pytest.mark.slow, pytest.mark.timeout(3 * _PATIENCE_S)]


@pytest.fixture(scope="module")
def settings(repository: Path) -> Settings:
    return loader.load("demo", [f"base.model={repository / 'examples' / 'base'}"])


@pytest.fixture(scope="module")
def demo(settings: Settings) -> HouseParts:
    template = PromptTemplate(
        settings.base.model, chat_template=settings.base.chat_template, terminator=settings.base.terminator
    )
    extractor = FeatureExtractor(settings.base.model, settings.features, template)
    return HouseParts(template, extractor, learner_of(settings, template))


def learner_of(settings: Settings, template: PromptTemplate, **changes: int) -> Learner:
    return LoraLearner(settings.base.model, template, settings.learner.model_copy(update=changes))


@dataclass(frozen=True)
class Exact:
    """Shares of exact answers."""

    old: float
    new: float


class Place:
    """A house with the demo's settings, and what its domains answer."""

    def __init__(self, house: House, settings: Settings, folder: Path) -> None:
        self.house, self._settings, self._folder = house, settings, folder
        self._base = AutoModelForCausalLM.from_pretrained(settings.base.model)

    def rows(self, name: str, kind: str, domain: str) -> list[TaskRecord]:
        lines = (self._folder / f"{name}.{kind}.jsonl").read_text(encoding="utf-8").splitlines()
        return [TaskRecord(**{**json.loads(line), "domain": domain}) for line in lines]

    def learn(self, records: Sequence[TaskRecord]) -> Adapter:
        """Have them learned as the domain's next version."""
        domain = str(records[0].domain)
        version = self.house.registry.newest_version(domain) + 1
        self.house.send([*records, EndOfDomain(domain=domain)])
        self.house.settle(lambda: self.house.version(domain) == version, timeout_s=_PATIENCE_S)
        found = self.house.registry.numbered(domain, version)
        assert found is not None
        print(f"{found.name}: segment {found.facts.segment}; {found.facts.reason}; {found.facts.figures}")
        return found

    def segments(self, domain: str) -> dict[int, int]:
        """Version in service by segment."""
        return {number: placed.version for number, placed in self.house.current.routes[domain].segments.items()}

    def asked(self, domain: str, records: Sequence[TaskRecord]) -> float:
        """Share of these that the domain answers exactly, asked by its name."""
        examples = self.examples(records)
        choices = asyncio.run(self._choices(domain, [example.prompt for example in examples]))
        exact = 0
        for name in {choice.adapter.name for choice in choices if choice.adapter is not None}:
            folder = self.house.registry.adapter(name).path
            mine = [e for e, c in zip(examples, choices, strict=True) if c.adapter and c.adapter.name == name]
            exact += sum(self.figures(folder, mine).row_exact)
        return exact / len(examples)

    def examples(self, records: Sequence[TaskRecord]) -> list[Example]:
        render = self.house.parts.template.render
        return [Example(r.id, render(r.messages_or_prompt()), r.completion) for r in records]

    def figures(self, folder: Path, examples: Sequence[Example]) -> Evaluation:
        model = PeftModel.from_pretrained(self._base, str(folder))
        try:
            loss = CompletionLoss(OutputLayer(self._base), self._settings.learner.logit_chunk)
            encoded = encode(examples, self.house.parts.template, self._settings.learner.max_tokens)
            assert len(encoded) == len(examples)
            return evaluate(loss, TokenBudget(32, None), model, encoded)
        finally:
            model.unload()

    async def _choices(self, domain: str, texts: Sequence[str]) -> list[Choice]:
        """Whom a replica would have answer each text."""
        extractor = self.house.parts.extractor
        knobs = EngineKnobs(max_lora_rank=64)
        replica = Publication(MemoryEngine(), self.house.registry, lambda _manifest: extractor, knobs, BASE)
        number = self.house.current.number
        await replica.prepare(number)
        await replica.commit(number)
        queue = ScoreQueue()
        try:
            named = Named(((replica.current.by_domain[domain], 1),))
            return await by_segment(replica.current, named, texts, queue)
        finally:
            queue.close()


@pytest.fixture
def place(
    build: Callable[..., House], settings: Settings, demo: HouseParts, repository: Path, tmp_path: Path
) -> Iterator[Place]:
    class Demo(House):
        router_options = settings.router
        exams = ExamLimits(settings.gate.exam_rows, settings.gate.exam_bytes)
        job_seconds = _PATIENCE_S

    ingest = limits(
        poll_records=settings.ingest.poll_records,
        block_rows=settings.ingest.block_rows,
        held_out_fraction=settings.ingest.held_out_fraction,
    )
    house = Demo(tmp_path / "demo", demo, partitions=settings.stream.partitions, options=ingest, gate=settings.gate)
    yield Place(house, settings, repository / "examples" / "stream")
    house.down()


@pytest.mark.parametrize(
    ("domain", "old", "new", "steps"),
    [("dates", "german-dates", "dutch-dates", 180), ("tickets", "shop-support", "it-helpdesk", 400)],
)
def test_an_update_of_another_kind_takes_nothing_from_what_was_there(
    place: Place, settings: Settings, domain: str, old: str, new: str, steps: int
) -> None:
    """Tickets take more steps than the demo has time for, old or new."""
    old_test, new_test = (place.rows(name, "test", domain) for name in (old, new))
    one = place.learn(place.rows(old, "train", domain))
    before = place.figures(one.path, place.examples(old_test)).exact_match
    place.house.employ(learner_of(settings, place.house.parts.template, max_steps=steps))
    two = place.learn(place.rows(new, "train", domain))
    assert place.segments(domain) == {1: 1, 2: 2} and "segment of its own" in two.facts.reason
    after, learned = place.asked(domain, old_test), place.asked(domain, new_test)
    print(f"{domain}: {old} {before:.4f} -> {after:.4f}, {new} {learned:.4f}")
    assert after >= before - 0.02 and learned >= 0.90


def test_more_of_the_same_goes_on_in_its_segment_and_gets_better_and_so_does_a_larger_adapter(
    place: Place, settings: Settings
) -> None:
    rows = place.rows("german-dates", "train", "dates")
    test = place.examples(place.rows("german-dates", "test", "dates"))
    one = place.learn(rows[:200])
    two = place.learn(rows[200:400])
    assert place.segments("dates") == {1: 2}
    first, second = place.figures(one.path, test), place.figures(two.path, test)
    print(f"dates: {first.loss:.4f} -> {second.loss:.4f}, {first.exact_match:.4f} -> {second.exact_match:.4f}")
    assert two.facts.figures["candidate_loss"] < two.facts.figures["incumbent_loss"] and second.loss < first.loss

    place.house.employ(learner_of(settings, place.house.parts.template, rank=2 * settings.learner.rank))
    three = place.learn(rows[400:])
    assert place.segments("dates") == {1: 3} and three.facts.rank == 2 * two.facts.rank
    third = place.figures(three.path, test)
    print(f"dates: {second.loss:.4f} -> {third.loss:.4f}, {second.exact_match:.4f} -> {third.exact_match:.4f}")
    assert third.exact_match >= second.exact_match - 0.02
