"""A base model small enough to train on in a test, and the real parts that stand on it."""

from __future__ import annotations

import asyncio
import inspect
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from learning.feature_options import FeatureOptions
from learning.features import FeatureExtractor
from learning.lora import LoraLearner
from learning.lora_options import LoraOptions
from learning.template import PromptTemplate
from streaming.records import EndOfDomain
from tests.actors.clock import ImpatientLoop, clock, skew
from tests.actors.house import House, HouseParts, records_of
from tests.actors.lane import LaneHouse
from tests.actors.remembering import RememberingLearner
from tests.actors.router_rows import add, registry, start  # noqa: F401 - fixtures

TERMINATOR = "\n"
# As many templates do, it refuses conversations that it was not made for.
CHAT_TEMPLATE = (
    "{% for message in messages %}"
    "{% if message['role'] == 'system' %}{{ raise_exception('no system messages') }}{% endif %}"
    "{{ message['content'] }}"
    "{% endfor %}"
    "{% if messages[-1]['content'] %}{{ '>' }}{% endif %}"
)


def pytest_asyncio_loop_factories(config: pytest.Config, item: pytest.Item) -> dict[str, type[asyncio.BaseEventLoop]]:
    """Conversations of replicas and their directory wait for each other's silences; here nobody waits for them."""
    return {"impatient": ImpatientLoop}


@pytest.fixture(autouse=True)
def one_clock(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """What runs on the impatient loop reads its clock too; everything else one that a house can put forward."""
    monkeypatch.setattr(time, "monotonic", clock if inspect.iscoroutinefunction(request.function) else skew)


def _tokenizer() -> PreTrainedTokenizerFast:
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {letter: index for index, letter in enumerate(["<end>", *letters])}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.decoder = decoders.ByteLevel()
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<end>", pad_token="<end>")
    fast.chat_template = CHAT_TEMPLATE
    return fast


@pytest.fixture(scope="session")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A byte-level Llama of three layers with random weights, about 150 KB."""
    folder = tmp_path_factory.mktemp("base")
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=257,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=3,
        num_attention_heads=2,
        num_key_value_heads=2,
        max_position_embeddings=128,
        initializer_range=0.2,
        bos_token_id=None,
        eos_token_id=0,
        pad_token_id=0,
    )
    LlamaForCausalLM(config).save_pretrained(folder)
    _tokenizer().save_pretrained(folder)
    return folder


@pytest.fixture(scope="session", autouse=True)
def one_thread() -> Iterator[None]:
    """Matrices of this size are slower on several threads."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def template(base: Path) -> PromptTemplate:
    return PromptTemplate(str(base), terminator=TERMINATOR)


@pytest.fixture(scope="session")
def extractor(base: Path, template: PromptTemplate) -> FeatureExtractor:
    options = FeatureOptions(layers=(1,), poolings=("mean",), expansion=24, seed=3, max_tokens=64)
    return FeatureExtractor(str(base), options, template)


@pytest.fixture(scope="session")
def learner(base: Path, template: PromptTemplate) -> RememberingLearner:
    options = LoraOptions(
        frozen_layers=1,
        rank=2,
        alpha=8.0,
        targets=("q_proj", "v_proj", "up_proj"),
        learning_rate=3e-2,
        batch_size=8,
        max_steps=12,
        evaluate_every=6,
        max_tokens=64,
        threads=1,
    )
    return RememberingLearner(LoraLearner(str(base), template, options))


@pytest.fixture(scope="session")
def parts(template: PromptTemplate, extractor: FeatureExtractor, learner: RememberingLearner) -> HouseParts:
    return HouseParts(template, extractor, learner)


@pytest.fixture
def build(parts: HouseParts, tmp_path: Path) -> Iterator[Callable[..., House]]:
    """Builds houses in the test's folder; whatever was built is taken down in the end."""
    built: list[House] = []

    def _build(name: str = "home", **options: object) -> House:
        house = House(tmp_path / name, parts, **options)  # type: ignore[arg-type]
        built.append(house)
        return house

    yield _build
    for house in built:
        house.down()


@pytest.fixture
def lane(parts: HouseParts, tmp_path: Path) -> Iterator[Callable[..., LaneHouse]]:
    """As `build`, of houses whose learner has one lane."""
    built: list[LaneHouse] = []

    def _build(name: str = "home", **options: object) -> LaneHouse:
        built.append(LaneHouse(tmp_path / name, parts, **options))  # type: ignore[arg-type]
        return built[-1]

    yield _build
    for house in built:
        house.down()


@pytest.fixture
def two_versions(build: Callable[..., House]) -> House:
    """Alpha in its second version, beta in its first."""
    house = build()
    house.send(
        [*records_of("alpha", 24), EndOfDomain(domain="alpha"), *records_of("beta", 24), EndOfDomain(domain="beta")]
    )
    house.settle(lambda: house.version("alpha") == house.version("beta") == 1)
    house.send([*records_of("alpha", 24, start=24), EndOfDomain(domain="alpha")])
    house.learn("alpha", 2)
    return house
