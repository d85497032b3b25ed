"""Features of a sentence encoder: its own tokens, its own layers, and no trace of padding or of the base's template."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModel, AutoTokenizer

from learning.errors import CheckpointError, LearningError
from learning.feature_options import FeatureOptions
from learning.features import FeatureExtractor
from learning.lower_layers import LowerLayers
from learning.template import PromptTemplate

pytestmark = pytest.mark.slow

TEXTS = [f"{'abcdefgh ' * (number % 9)}{number} times?" for number in range(30)]
CHAT = "<s>[system] Be brief.\n[user] {{ messages[-1]['content'] }}\n[assistant]{{ ' ' }}"


def options(encoder: Path) -> FeatureOptions:
    return FeatureOptions(model=str(encoder), expansion=64, max_tokens=100)


@pytest.mark.parametrize("depth", [0, 1, 4])
def test_hidden_states_are_the_whole_models(encoder: Path, depth: int) -> None:
    ids = torch.randint(2, 250, (2, 11), generator=torch.Generator().manual_seed(0))
    full = AutoModel.from_pretrained(encoder, dtype=torch.float64).eval()
    with torch.no_grad():
        expected = full(input_ids=ids, output_hidden_states=True).hidden_states
    lower = LowerLayers(encoder, depth, "float64", "cpu")
    for layer, states in enumerate(lower.hidden_states(ids, torch.tensor([11, 11]), range(depth + 1))):
        assert (states - expected[layer]).abs().max() < 1e-12, layer


def test_by_default_they_are_the_mean_of_the_last_layer_over_all_own_tokens(encoder: Path, llama: Path) -> None:
    made = FeatureExtractor(str(llama), options(encoder))
    tokenizer = AutoTokenizer.from_pretrained(encoder)
    full = AutoModel.from_pretrained(encoder, dtype=torch.float64).eval()
    for row, text in zip(made.pooled(TEXTS), TEXTS, strict=True):
        ids = torch.tensor([tokenizer(text)["input_ids"]])
        with torch.no_grad():
            expected = full(input_ids=ids).last_hidden_state[0].mean(dim=0)
        assert ids[0, 0] == 0 and ids[0, -1] == 1
        assert np.allclose(row, expected, atol=1e-12)


def test_they_do_not_depend_on_who_shares_the_batch(encoder: Path, llama: Path) -> None:
    made = FeatureExtractor(str(llama), options(encoder))
    together = made.pooled(TEXTS)
    assert len({len(text) for text in TEXTS}) > 5
    assert np.abs(together - np.concatenate([made.pooled([text]) for text in TEXTS])).max() < 1e-12


def test_the_bases_template_is_taken_off(bert: Path, llama: Path) -> None:
    template = PromptTemplate(str(llama), CHAT)
    made = FeatureExtractor(str(llama), options(bert), template)
    bare = FeatureExtractor(str(llama), options(bert))
    rendered = [template.render([{"role": "user", "content": text}]) for text in TEXTS]
    assert np.array_equal(made.pooled(rendered), bare.pooled(TEXTS))
    assert np.array_equal(made.extract(rendered), bare.extract(TEXTS)), "the calibration text loses it as well"
    assert made.fingerprint != bare.fingerprint
    own = FeatureExtractor(str(llama), FeatureOptions(expansion=64, max_tokens=100), template)
    assert not np.allclose(own.pooled(rendered), own.pooled(TEXTS))


@pytest.mark.parametrize(
    ("chat_template", "kept"),
    [
        ("{{ strftime_now('%Y') }}" + CHAT, True),
        ("{{ messages[-1]['content'] }} and {{ messages[-1]['content'] }}", True),
        ("{{ messages[1]['content'] }}", True),
        (CHAT, False),
    ],
    ids=["tells the time", "says it twice", "wants two messages", "plain"],
)
def test_only_what_is_the_same_for_all_is_taken_off(bert: Path, llama: Path, chat_template: str, kept: bool) -> None:
    made = FeatureExtractor(str(llama), options(bert), PromptTemplate(str(llama), chat_template))
    bare = FeatureExtractor(str(llama), options(bert))
    text = "<s>[system] Be brief.\n[user] hello\n[assistant] "
    assert np.array_equal(made.pooled([text]), bare.pooled([text if kept else "hello"]))


def test_a_prompt_of_several_turns_loses_what_it_has_of_the_frame(bert: Path, llama: Path) -> None:
    made = FeatureExtractor(str(llama), options(bert), PromptTemplate(str(llama), CHAT))
    bare = FeatureExtractor(str(llama), options(bert))
    assert np.array_equal(made.pooled(["[user] hi\n[assistant] "]), bare.pooled(["[user] hi"]))


def test_long_prompts_lose_their_middle_and_keep_the_special_tokens(bert: Path, llama: Path) -> None:
    made = FeatureExtractor(str(llama), options(bert).model_copy(update={"max_tokens": 12}))
    (ids,) = made._tokens.encode(["abcde" + "-" * 300 + "vwxyz"])
    (short,) = made._tokens.encode(["abcdevwxyz"])
    assert ids == short and len(ids) == 12 and (ids[0], ids[-1]) == (0, 1)
    with pytest.raises(LearningError, match="more than the 2 special tokens"):
        FeatureExtractor(str(llama), options(bert).model_copy(update={"max_tokens": 2}))


def test_positions_are_those_that_the_model_really_has(llama: Path, encoder: Path) -> None:
    kind = json.loads((encoder / "config.json").read_text())["model_type"]
    positions = 128 if kind == "bert" else 126  # RoBERTa keeps two for the padding and what lies before it
    made = FeatureExtractor(str(llama), options(encoder).model_copy(update={"max_tokens": positions}))
    assert np.isfinite(made.pooled(["x" * 500])).all()
    with pytest.raises(LearningError, match=f"has {positions} positions, got {positions + 1}"):
        FeatureExtractor(str(llama), options(encoder).model_copy(update={"max_tokens": positions + 1}))


def test_missing_tensors_are_named(bert: Path, tmp_path: Path) -> None:
    other = shutil.copytree(bert, tmp_path / "other")
    tensors = load_file(other / "model.safetensors")
    del tensors["bert.encoder.layer.1.output.dense.weight"]
    save_file(tensors, other / "model.safetensors", {"format": "pt"})
    with pytest.raises(CheckpointError, match=r"first 'encoder\.layer\.1\.output\.dense\.weight'"):
        LowerLayers(other, 2, "float64", "cpu")
    LowerLayers(other, 1, "float64", "cpu")


def test_a_decoder_may_make_them_too(llama: Path, decoder: Path) -> None:
    made = FeatureExtractor(str(llama), options(decoder))
    assert made.extract(["hello", "you"]).shape == (2, 64)
