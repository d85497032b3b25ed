"""The committed base loads, is small, and can't answer the demo's domains before it is adapted."""

import json
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from examples.generate import DOMAINS
from examples.measure import exact_match, turns
from examples.pretraining.tokenizer import EOS, VOCABULARY_SIZE, encode_turn

EXAMPLES = Path(__file__).parents[2] / "examples"
BASE = EXAMPLES / "base"


@pytest.fixture(scope="module")
def base():
    return AutoModelForCausalLM.from_pretrained(BASE, dtype=torch.float32).eval()


def test_base_is_small_and_fits_the_engines(base) -> None:
    assert (BASE / "model.safetensors").stat().st_size <= 8_000_000
    assert base.config.head_dim == 32
    assert base.config.vocab_size == VOCABULARY_SIZE
    assert base.config.max_position_embeddings == 512
    assert 1e6 < sum(parameter.numel() for parameter in base.parameters()) < 3e6


def test_tokenizer_loads_with_its_template() -> None:
    tokenizer = AutoTokenizer.from_pretrained(BASE)
    assert tokenizer.eos_token_id == EOS
    rendered = tokenizer.apply_chat_template(
        [{"role": "user", "content": "Grüße"}], tokenize=False, add_generation_prompt=True
    )
    ids, prompt_length = encode_turn("Grüße", "")
    assert tokenizer(rendered, add_special_tokens=False).input_ids == ids[:prompt_length]


def test_base_has_learned_to_copy_and_to_stop(base) -> None:
    prompt, answer = "repeat: Vienna 4711 hut", "Vienna 4711 hut"
    ids, prompt_length = encode_turn(prompt, answer)
    generated = base.generate(torch.tensor([ids[:prompt_length]]), max_new_tokens=30, do_sample=False)[0]
    assert generated[prompt_length:].tolist() == ids[prompt_length:]


def test_base_does_not_know_the_domains(base) -> None:
    shares = []
    for slug in DOMAINS:
        lines = (EXAMPLES / "stream" / f"{slug}.test.jsonl").read_text("utf-8").splitlines()[:15]
        shares.append(exact_match(base, turns([json.loads(line) for line in lines])))
    assert sum(shares) / len(shares) <= 0.1


def test_card_states_the_recipe() -> None:
    card = (BASE / "README.md").read_text("utf-8")
    assert "python -m examples.pretrain" in card
    assert "final loss" in card
