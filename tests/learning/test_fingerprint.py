"""The fingerprint names what a feature depends on, and no more."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file, save_file

from learning.feature_options import FeatureOptions
from learning.features import FeatureExtractor
from learning.template import PromptTemplate
from tests.learning.bases import TEMPLATE, write_base

TEXTS = ["<s>one", "<s>another"]
CHOSEN = FeatureOptions(layers=(0, 2), poolings=("mean", "max", "std", "last"), expansion=64, seed=5, max_tokens=100)


def fingerprint(folder: Path, **changes: Any) -> str:
    return FeatureExtractor(str(folder), CHOSEN.model_copy(update=changes)).fingerprint


def weights(change: Callable[[dict[str, Any]], None]) -> Callable[[Path], None]:
    def apply(folder: Path) -> None:
        tensors = load_file(folder / "model.safetensors")
        change(tensors)
        save_file(tensors, folder / "model.safetensors", {"format": "pt"})

    return apply


def add_one(*names: str) -> Callable[[Path], None]:
    def change(tensors: dict[str, Any]) -> None:
        for name in names:
            tensors[name] = tensors[name] + 1

    return weights(change)


def config(**entries: Any) -> Callable[[Path], None]:
    def apply(folder: Path) -> None:
        content = json.loads((folder / "config.json").read_text())
        (folder / "config.json").write_text(json.dumps({**content, **entries}))

    return apply


def rope_theta(folder: Path) -> None:
    content = json.loads((folder / "config.json").read_text())
    content["rope_parameters"]["rope_theta"] = 500.0
    (folder / "config.json").write_text(json.dumps(content))


def tokenizer(folder: Path) -> None:
    content = json.loads((folder / "tokenizer.json").read_text())
    content["normalizer"] = {"type": "Lowercase"}
    (folder / "tokenizer.json").write_text(json.dumps(content))


def generation(folder: Path) -> None:
    (folder / "generation_config.json").write_text('{"temperature": 0.3}')


def sharded(folder: Path) -> None:
    tensors = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    files: dict[str, str] = {name: f"model-{number % 2}.safetensors" for number, name in enumerate(tensors)}
    for file in set(files.values()):
        save_file({name: tensors[name] for name in tensors if files[name] == file}, folder / file, {"format": "pt"})
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": files}))


NO_PART = {
    "a layer above": add_one("model.layers.2.mlp.up_proj.weight", "model.layers.3.self_attn.q_proj.weight"),
    "the last norm": add_one("model.norm.weight"),
    "a head": weights(lambda t: t.update({"lm_head.weight": t["model.embed_tokens.weight"] + 1})),
    "generation": generation,
    "more layers": config(num_hidden_layers=9),
    "filing": config(transformers_version="0", architectures=["X"], dtype="float16", use_cache=False, eos_token_id=[1]),
    "other files": sharded,
}
PART = {
    "a used layer": add_one("model.layers.1.mlp.up_proj.weight"),
    "the embeddings": add_one("model.embed_tokens.weight"),
    "the rope's theta": rope_theta,
    "the norms' epsilon": config(rms_norm_eps=0.5),
    "a key that is not known": config(new_way_of_attention="sparse"),
    "the tokenizer": tokenizer,
}


@pytest.mark.parametrize("change", NO_PART.values(), ids=NO_PART)
def test_what_is_no_part_of_it_keeps_it(llama: Path, tmp_path: Path, change: Callable[[Path], None]) -> None:
    other = shutil.copytree(llama, tmp_path / "other")
    change(other)
    assert fingerprint(other) == fingerprint(llama)


@pytest.mark.parametrize("change", PART.values(), ids=PART)
def test_what_is_part_of_it_changes_it(llama: Path, tmp_path: Path, change: Callable[[Path], None]) -> None:
    other = shutil.copytree(llama, tmp_path / "other")
    change(other)
    assert fingerprint(other) != fingerprint(llama)


def test_it_moves_with_every_option_that_changes_features(llama: Path, bert: Path) -> None:
    made = FeatureExtractor(str(llama), CHOSEN)
    changes: list[dict[str, Any]] = [
        {"layers": (0, 3)},
        {"layers": (2, 0)},
        {"poolings": ("mean", "max", "std")},
        {"expansion": 63},
        {"seed": 6},
        {"max_tokens": 99},
        {"dtype": "float32"},
        {"model": str(llama)},  # with its own special tokens
        {"model": str(bert)},
    ]
    prints = [made.fingerprint, *(fingerprint(llama, **change) for change in changes)]
    for texts in (TEXTS, [*TEXTS, "third"]):
        prints.append(FeatureExtractor(str(llama), CHOSEN, None, made.fit(texts)).fingerprint)
    prints.append(FeatureExtractor(str(llama), CHOSEN, PromptTemplate(str(llama), TEMPLATE)).fingerprint)
    assert len(set(prints)) == len(prints)
    assert {fingerprint(llama, batch_size=3), fingerprint(llama)} == {made.fingerprint}


def test_how_much_of_a_long_text_is_read_is_part_of_it(llama: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = fingerprint(llama)
    monkeypatch.setattr("learning.features.CHARACTERS_PER_TOKEN", 17)
    assert fingerprint(llama) != before


def test_of_another_models_features_the_bases_weights_are_no_part(llama: Path, bert: Path, tmp_path: Path) -> None:
    other = write_base(tmp_path, "llama", seed=1)
    assert fingerprint(llama) != fingerprint(other)
    assert fingerprint(llama, model=str(bert)) == fingerprint(other, model=str(bert))


def test_the_layers_none_stands_for_are_named(llama: Path, bert: Path) -> None:
    assert fingerprint(llama, layers=None) == fingerprint(llama, layers=(0, 2))
    assert fingerprint(llama, model=str(bert), layers=None) == fingerprint(llama, model=str(bert), layers=(4,))
