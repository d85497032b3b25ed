"""Features: what is loaded, what they depend on, and what they must not depend on."""

import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors
import torch
from transformers import AutoModel, AutoTokenizer

from learning import checkpoint
from learning.errors import CheckpointError, LearningError, TextsWithoutTokens
from learning.feature_options import FeatureOptions
from learning.features import FeatureExtractor
from learning.lower_layers import LowerLayers
from learning.standardisation import Standardisation
from learning.template import PromptTemplate
from tests.learning.bases import TEMPLATE, write_base

TEXTS = [f"<s>{'abcdefgh ' * (number % 9)}{number} times?" for number in range(60)]
CHOSEN = FeatureOptions(layers=(0, 2), poolings=("mean", "max", "std", "last"), expansion=64, seed=5, max_tokens=100)


def extractor(folder: Path, **changes: Any) -> FeatureExtractor:
    return FeatureExtractor(str(folder), CHOSEN.model_copy(update=changes))


@pytest.mark.parametrize("depth", [0, 1, 3, 4])
def test_hidden_states_are_the_base_models_before_its_last_norm(decoder: Path, depth: int) -> None:
    ids = torch.randint(2, 250, (2, 11), generator=torch.Generator().manual_seed(0))
    full = AutoModel.from_pretrained(decoder, dtype=torch.float32)
    full.norm = torch.nn.Identity()
    with torch.no_grad():
        expected = full(input_ids=ids, output_hidden_states=True).hidden_states
    lower = LowerLayers(decoder, depth, "float64", "cpu")
    for layer, states in enumerate(lower.hidden_states(ids, range(depth + 1))):
        assert states.dtype == torch.float64
        assert (states - expected[layer]).abs().max() < 1e-4 * expected[layer].abs().max(), layer


def test_upper_layers_are_neither_held_nor_read(llama: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[str] = []

    class Watched:
        def __init__(self, *arguments: Any, **named: Any) -> None:
            self._opened = safetensors.safe_open(*arguments, **named)

        def __enter__(self) -> "Watched":
            return self

        def __exit__(self, *error: object) -> None:
            return None

        def keys(self) -> list[str]:
            return list(self._opened.keys())

        def get_tensor(self, name: str) -> torch.Tensor:
            read.append(name)
            return self._opened.get_tensor(name)

    monkeypatch.setattr(checkpoint, "safe_open", Watched)
    lower = LowerLayers(llama, 2, "float32", "cpu")
    layers = {name.split(".")[2] for name in read if ".layers." in name}
    assert layers == {"0", "1"} and len(read) == 2 * 9 + 1  # nine tensors a layer, and the embeddings
    assert len(lower._model.state_dict()) == 2 * 9 + 1


def test_features_do_not_depend_on_who_shares_the_batch(decoder: Path) -> None:
    made = extractor(decoder)
    made = made.with_standardisation(made.fit(TEXTS))
    expected = made.extract(TEXTS)
    assert expected.dtype == np.float64 and expected.shape == (len(TEXTS), made.feature_dim)
    alone = np.concatenate([made.extract([text]) for text in TEXTS])
    order = random.Random(0).sample(range(len(TEXTS)), len(TEXTS))
    other = extractor(decoder, batch_size=7).with_standardisation(made.standardisation)
    shuffled = np.empty_like(expected)
    shuffled[order] = other.extract([TEXTS[index] for index in order])
    assert np.abs(alone - expected).max() < 1e-12 and np.abs(shuffled - expected).max() < 1e-12


def test_poolings_are_those_of_the_real_tokens(llama: Path) -> None:
    made = extractor(llama)
    pooled = made.pooled(TEXTS[:7])
    tokenizer = AutoTokenizer.from_pretrained(llama)
    lower = LowerLayers(llama, 2, "float64", "cpu")
    for row, text in zip(pooled, TEXTS, strict=False):
        ids = torch.tensor([tokenizer(text, add_special_tokens=False)["input_ids"]])
        parts = []
        for states in lower.hidden_states(ids, [0, 2]):
            real = states[0].numpy()
            parts += [real.mean(axis=0), real.max(axis=0), real.std(axis=0), real[-1]]
        assert np.allclose(row, np.concatenate(parts), atol=1e-12)


def test_the_fingerprint_moves_with_everything_a_feature_depends_on(llama: Path, tmp_path: Path) -> None:
    made = extractor(llama)
    fitted = made.fit(TEXTS)
    changes: list[dict[str, Any]] = [
        {"layers": (0, 3)},
        {"layers": (2, 0)},
        {"poolings": ("mean", "max", "std")},
        {"expansion": 63},
        {"seed": 6},
        {"max_tokens": 99},
        {"dtype": "float32"},
    ]
    prints = [made.fingerprint, *(extractor(llama, **change).fingerprint for change in changes)]
    prints += [made.with_standardisation(one).fingerprint for one in (fitted, made.fit(TEXTS[1:]))]
    prints.append(FeatureExtractor(str(llama), CHOSEN, PromptTemplate(str(llama), TEMPLATE)).fingerprint)
    assert len(set(prints)) == len(prints)
    assert extractor(write_base(tmp_path, "llama", seed=1)).fingerprint not in prints  # other weights, nothing else
    same = [extractor(llama, batch_size=3), extractor(llama)]
    assert {one.fingerprint for one in same} == {made.fingerprint}
    assert FeatureExtractor(str(llama), CHOSEN, None, fitted).fingerprint == prints[8]


def test_a_standardised_twin_shares_the_weights(llama: Path) -> None:
    made = extractor(llama)
    twin = made.with_standardisation(made.fit(TEXTS))
    assert twin._lower is made._lower and not np.array_equal(twin.extract(TEXTS), made.extract(TEXTS))


def test_long_prompts_lose_their_middle(llama: Path) -> None:
    made = extractor(llama, max_tokens=10)
    head, tail = "<s>abcd", "vwxyz"
    assert np.allclose(made.pooled([head + "-" * 300 + tail]), made.pooled([head + "+" * 50 + tail]), atol=1e-12)
    assert not np.allclose(made.pooled([head + tail]), made.pooled([head + tail[::-1]]))


def test_no_texts_make_no_rows_and_empty_texts_are_refused(llama: Path) -> None:
    made = extractor(llama)
    assert made.pooled([]).shape == (0, made.pooled_dim)
    with pytest.raises(TextsWithoutTokens, match="2 of 4 texts have no tokens, first text 1") as found:
        made.extract(["a", "", "b", ""])
    assert found.value.rows == (1, 3)


def test_loading_leaves_the_global_random_state_alone(llama: Path) -> None:
    torch.manual_seed(3)
    expected = torch.rand(3)
    torch.manual_seed(3)
    extractor(llama)
    assert torch.equal(torch.rand(3), expected)


def test_more_tokens_than_the_base_has_positions_are_refused(llama: Path) -> None:
    with pytest.raises(LearningError, match="the base model has 128 positions, got 1000"):
        extractor(llama, max_tokens=1000)


def test_a_layer_that_is_not_there_is_refused(llama: Path) -> None:
    with pytest.raises(CheckpointError, match="asked for layer 5, expected 0 to 4"):
        extractor(llama, layers=(5,))


def test_bytes_of_a_standardisation_are_enough_for_another_machine(llama: Path) -> None:
    made = extractor(llama)
    here = made.with_standardisation(made.fit(TEXTS))
    there = FeatureExtractor(str(llama), CHOSEN, None, Standardisation.from_bytes(made.fit(TEXTS).to_bytes()))
    assert there.fingerprint == here.fingerprint
    assert np.array_equal(there.extract(TEXTS), here.extract(TEXTS))


def test_a_device_without_room_is_said_as_lack_of_memory(llama: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = FeatureExtractor(str(llama), FeatureOptions(layers=(0, 1), expansion=8, max_tokens=64))
    made.extract(["warm"])

    def full(**_: Any) -> Any:
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(made._lower, "_model", full)
    with pytest.raises(MemoryError, match="CUDA out of memory"):
        made.extract(["one"])
