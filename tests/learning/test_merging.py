"""A merged model answers as base and adapter do, and is whole in the Hugging Face layout."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel

from learning.base_delta import save_base_delta
from learning.errors import LearningError
from learning.merging import merge
from tests.learning.bases import write_base
from tests.learning.elsewhere import write_adapter

pytestmark = pytest.mark.slow

PROMPTS = ["<s>how are you?\n", "<s>7 very red\n", "<s>one two three\n"]


def greedy(model: PreTrainedModel, folder: Path) -> list[list[int]]:
    tokenizer = AutoTokenizer.from_pretrained(folder)
    found = []
    for prompt in PROMPTS:
        ids = torch.tensor([tokenizer(prompt, add_special_tokens=False)["input_ids"]])
        found.append(model.generate(ids, max_new_tokens=24, do_sample=False, eos_token_id=None)[0].tolist())
    return found


def loaded(folder: Path) -> PreTrainedModel:
    return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()


@pytest.mark.parametrize("options", [{}, {"use_rslora": True, "r": 2}, {"layers_to_transform": [1]}], ids=str)
def test_greedy_tokens_are_those_of_base_and_adapter(decoder: Path, tmp_path: Path, options: dict[str, Any]) -> None:
    adapter = write_adapter(tmp_path / "adapter", decoder, size=0.3, **options)
    with_peft = greedy(PeftModel.from_pretrained(loaded(decoder), adapter), decoder)
    assert with_peft != greedy(loaded(decoder), decoder)
    merge(str(decoder), adapter, None, None, tmp_path / "merged")
    assert greedy(loaded(tmp_path / "merged"), tmp_path / "merged") == with_peft
    assert {path.name for path in decoder.iterdir()} == {path.name for path in (tmp_path / "merged").iterdir()}


def test_a_change_of_the_base_goes_in_first(llama: Path, tmp_path: Path) -> None:
    base = loaded(llama)
    name = "model.layers.2.mlp.up_proj.weight"
    changed = base.state_dict()[name] + 0.3 * torch.randn_like(base.state_dict()[name])
    save_base_delta({name: changed}, tmp_path / "delta")
    adapter = write_adapter(tmp_path / "adapter", llama, size=0.3)
    merge(str(llama), None, tmp_path / "delta", None, tmp_path / "changed")
    assert torch.equal(load_file(tmp_path / "changed" / "model.safetensors")[name], changed)
    merge(str(llama), adapter, tmp_path / "delta", None, tmp_path / "both")
    base.state_dict()[name].copy_(changed)
    assert greedy(loaded(tmp_path / "both"), llama) == greedy(PeftModel.from_pretrained(base, adapter), llama)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_shards_and_another_type(tmp_path: Path, dtype: str) -> None:
    """Of a base in several files and half the width, every file is written, and says what it is."""
    base = write_base(tmp_path / "base", "llama")
    model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.bfloat16)
    (base / "model.safetensors").unlink()
    model.save_pretrained(base, max_shard_size="20KB")
    adapter = write_adapter(tmp_path / "adapter", base, size=0.3)
    merge(str(base), adapter, None, dtype, tmp_path / "merged")
    index = json.loads((tmp_path / "merged" / "model.safetensors.index.json").read_text())
    tensors = {}
    for file in set(index["weight_map"].values()):
        tensors |= load_file(tmp_path / "merged" / file)
    assert len(set(index["weight_map"].values())) > 1 and tensors.keys() == index["weight_map"].keys()
    assert {each.dtype for each in tensors.values()} == {getattr(torch, dtype)}
    assert index["metadata"]["total_size"] == sum(each.nbytes for each in tensors.values())
    assert json.loads((tmp_path / "merged" / "config.json").read_text())["dtype"] == dtype
    if dtype == "float32":
        with_peft = PeftModel.from_pretrained(loaded(base), adapter)
        assert greedy(loaded(tmp_path / "merged"), base) == greedy(with_peft, base)


def test_what_does_not_fit_is_refused(llama: Path, tmp_path: Path) -> None:
    save_base_delta({"model.layers.9.mlp.up_proj.weight": torch.zeros(48, 32)}, tmp_path / "delta")
    with pytest.raises(LearningError, match=r"1 others, first 'model.layers.9"):
        merge(str(llama), None, tmp_path / "delta", None, tmp_path / "one")
    save_base_delta({"model.layers.2.mlp.up_proj.weight": torch.zeros(48, 31)}, tmp_path / "other")
    with pytest.raises(LearningError, match="expected shape"):
        merge(str(llama), None, tmp_path / "other", None, tmp_path / "two")
