"""Features: what is loaded, what they depend on, and what they must not depend on."""

import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors
import torch
from transformers import AutoModel, AutoTokenizer

from learning import checkpoint, pooled_layers
from learning.errors import CheckpointError, LearningError, TextsWithoutTokens
from learning.feature_options import FeatureOptions
from learning.features import FeatureExtractor
from learning.lower_layers import LowerLayers
from learning.standardisation import Standardisation
from learning.statistics import usable_rows

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
    for layer, states in enumerate(lower.hidden_states(ids, torch.tensor([11, 11]), range(depth + 1))):
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
    expected = made.pooled(TEXTS)
    alone = np.concatenate([made.pooled([text]) for text in TEXTS])
    order = random.Random(0).sample(range(len(TEXTS)), len(TEXTS))
    shuffled = np.empty_like(expected)
    shuffled[order] = extractor(decoder, batch_size=7).pooled([TEXTS[index] for index in order])
    assert np.abs(alone - expected).max() < 1e-12 and np.abs(shuffled - expected).max() < 1e-12
    one, other = made.extract(TEXTS), np.concatenate([made.extract([text]) for text in TEXTS])
    assert one.shape == (len(TEXTS), made.feature_dim)
    assert (one == other).mean() > 0.999, "all but what falls between two float32 numbers"
    assert np.abs(one - other).max() <= 2.0**-23 * np.abs(one).max()


def test_features_are_float32_numbers_in_float64(llama: Path) -> None:
    for width in (64, 0):
        made = extractor(llama, expansion=width)
        rows = made.extract(TEXTS)
        assert rows.dtype == np.float64
        assert np.array_equal(rows, rows.astype(np.float32))
        plain = made._expansion.apply(made.standardisation.apply(made.pooled(TEXTS)))
        assert not np.array_equal(plain, rows) and np.allclose(plain, rows, rtol=2.0**-23, atol=1e-12)


def test_numbers_beyond_float32_come_out_as_not_finite(llama: Path) -> None:
    tiny = Standardisation(np.zeros(256), np.full(256, 1e-300))
    rows = FeatureExtractor(str(llama), CHOSEN, None, tiny).extract(["<s>a"])
    assert np.isinf(rows).any() and not usable_rows(rows).any()


def test_poolings_are_those_of_the_real_tokens(llama: Path) -> None:
    made = extractor(llama)
    pooled = made.pooled(TEXTS[:7])
    tokenizer = AutoTokenizer.from_pretrained(llama)
    lower = LowerLayers(llama, 2, "float64", "cpu")
    for row, text in zip(pooled, TEXTS, strict=False):
        ids = torch.tensor([tokenizer(text, add_special_tokens=False)["input_ids"]])
        parts = []
        for states in lower.hidden_states(ids, torch.tensor([ids.shape[1]]), [0, 2]):
            real = states[0].numpy()
            parts += [real.mean(axis=0), real.max(axis=0), real.std(axis=0), real[-1]]
        assert np.allclose(row, np.concatenate(parts), atol=1e-12)


def test_long_prompts_lose_their_middle(llama: Path) -> None:
    made = extractor(llama, max_tokens=10)
    head, tail = "<s>abcd", "vwxyz"
    assert np.allclose(made.pooled([head + "-" * 300 + tail]), made.pooled([head + "+" * 50 + tail]), atol=1e-12)
    assert not np.allclose(made.pooled([head + tail]), made.pooled([head + tail[::-1]]))


def test_megabytes_cost_no_more_than_what_is_looked_at(llama: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    words = [f"word{number % 97}" for number in range(60_000)]
    text = " ".join(words)
    made = extractor(llama, max_tokens=100)
    ids = made._tokens.encode([text])[0]
    whole = made._tokens._tokenizer(text, add_special_tokens=False)["input_ids"]
    assert ids == [*whole[:50], *whole[-50:]], "of such a text the bound by characters takes nothing more away"
    read: list[int] = []
    encode = made._tokens._encode
    monkeypatch.setattr(made._tokens, "_encode", lambda texts: read.extend(map(len, texts)) or encode(texts))
    made.pooled([text, "short", "x" * 1600, "x" * 1601, " " * 2_000_000 + "end"])
    assert read == [1600, 5, 1600, 1600, 1600]


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
    with pytest.raises(LearningError, match="has 128 positions, got 1000"):
        extractor(llama, max_tokens=1000)


def test_a_layer_that_is_not_there_is_refused(llama: Path) -> None:
    with pytest.raises(CheckpointError, match="asked for layer 5, expected 0 to 4"):
        extractor(llama, layers=(5,))


def test_a_device_without_room_is_said_as_lack_of_memory(llama: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    options = FeatureOptions(layers=(0, 1), expansion=8, max_tokens=64, dtype="float32")
    made = FeatureExtractor(str(llama), options)
    made.extract(["warm"])

    def full(**_: Any) -> Any:
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(made._layers._layers, "_model", full)
    with pytest.raises(MemoryError, match="CUDA out of memory"):
        made.extract(["one"])

    made = FeatureExtractor(str(llama), options)
    monkeypatch.setattr(pooled_layers, "pool", lambda *_: full())
    with pytest.raises(MemoryError, match="pooling 1 texts: CUDA out of memory"):
        made.pooled(["one"])
