"""The pre-training recipe: every transformation gives usable turns, the tokenizer is exact, Muon orthogonalises."""

import random

import pytest
import torch
from transformers import LlamaForCausalLM

from examples.pretrain import Recipe, architecture, train
from examples.pretraining.invented import InventedWorld
from examples.pretraining.material import Material, gather
from examples.pretraining.mixture import LONGEST, PROMPT_WEIGHT, TRANSFORMATIONS, Mixture, batches, stage
from examples.pretraining.muon import orthogonalised
from examples.pretraining.tokenizer import BOS, BYTE_OFFSET, EOS, USER, byte_tokenizer, encode, encode_turn

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def material() -> Material:
    return gather(seed=3, sentences_per_locale=40)


@pytest.mark.parametrize("transformation", TRANSFORMATIONS, ids=lambda t: t.__name__)
def test_transformation_repeats_with_its_seed(transformation, material: Material) -> None:
    first, again = ([transformation(random.Random(seed), material) for seed in range(50)] for _ in range(2))
    assert first == again
    assert sum(bool(completion) for _, completion in first) > 40
    assert len(set(first)) > 25


@pytest.mark.parametrize("kind", ["desk", "date", "amount"])
def test_invented_world_repeats_with_its_seed(kind: str, material: Material) -> None:
    worlds = [InventedWorld(seed, material) for seed in (0, 0, 1)]
    drawn = [[getattr(world, kind)(random.Random(seed), material) for seed in range(60)] for world in worlds]
    assert drawn[0] == drawn[1] != drawn[2]
    assert not any("@" in completion and "@" not in prompt for prompt, completion in drawn[0])
    assert not any("{label}" in completion or "{mood}" in completion for _, completion in drawn[0])


def test_batches_weigh_answers_and_prompts(material: Material) -> None:
    ids_BT, weights_BT = next(batches(random.Random(0), material, stage(2, 0, material), tokens=1024))
    assert ids_BT.shape == weights_BT.shape
    assert ids_BT.numel() <= 1024
    assert ids_BT.shape[1] <= LONGEST
    assert (ids_BT[:, 0] == BOS).all()
    assert weights_BT[:, :3].unique().tolist() == pytest.approx([PROMPT_WEIGHT])
    assert (weights_BT[ids_BT == EOS] == 1.0).all()


def test_orthogonalised_has_singular_values_near_one() -> None:
    stack_NRC = torch.randn(3, 16, 40, generator=torch.Generator().manual_seed(0))
    values = torch.linalg.svdvals(orthogonalised(stack_NRC))
    assert values.min() > 0.5
    assert values.max() < 1.3


def test_training_lowers_the_loss_and_repeats(material: Material) -> None:
    config = architecture()
    config.update({"num_hidden_layers": 1, "hidden_size": 32, "intermediate_size": 32, "num_attention_heads": 1,
                   "num_key_value_heads": 1})  # fmt: skip
    losses = []
    for _ in range(2):
        torch.manual_seed(0)
        outcome = train(
            LlamaForCausalLM(config), material, Mixture(TRANSFORMATIONS), Recipe(steps=12, tokens_per_batch=512)
        )
        losses.append(outcome["loss"])
    assert outcome["steps"] == 12
    assert losses[0] == losses[1]
    assert losses[0] < 5.56  # ln 262: what a uniform guess costs


@pytest.mark.parametrize("text", ["", "Grüße, 12 €", 'Łódź ñ\n\t"x"', "  two  spaces ", "日本 \U0001f600"])
def test_tokenizer_is_exact(text: str) -> None:
    tokenizer = byte_tokenizer(512)
    ids = tokenizer(text, add_special_tokens=False).input_ids
    assert ids == encode(text) == [BYTE_OFFSET + byte for byte in text.encode()]
    assert tokenizer.decode(ids) == text


def test_chat_template_renders_a_turn_as_trained() -> None:
    tokenizer = byte_tokenizer(512)
    turn = [{"role": "user", "content": "ab"}]
    rendered = tokenizer.apply_chat_template(turn, tokenize=False, add_generation_prompt=True)
    ids, prompt_length = encode_turn("ab", "c")
    assert tokenizer(rendered, add_special_tokens=False).input_ids == ids[:prompt_length]
    whole = tokenizer.apply_chat_template([*turn, {"role": "assistant", "content": "c"}], tokenize=False)
    assert tokenizer(whole, add_special_tokens=False).input_ids == ids
    assert ids[1] == USER
