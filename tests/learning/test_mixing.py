"""A mixture against the weighted sum of its parts, and against PEFT's own; what can't be mixed is refused."""

import json
from pathlib import Path

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file, save_file
from transformers import LlamaConfig, LlamaForCausalLM

from learning.adapter_shape import StoredAdapter
from learning.errors import LearningError
from learning.mixing import mix

Q, V = "base_model.model.model.layers.0.self_attn.q_proj", "base_model.model.model.layers.1.self_attn.v_proj"


def written(folder: Path, rank: int, alpha: float, modules: tuple[str, ...], *, seed: int, width: int = 8) -> Path:
    folder.mkdir()
    draw = torch.Generator().manual_seed(seed)
    tensors = {}
    for module in modules:
        tensors[f"{module}.lora_A.weight"] = torch.randn(rank, width, generator=draw)
        tensors[f"{module}.lora_B.weight"] = torch.randn(6, rank, generator=draw)
    save_file(tensors, folder / "adapter_model.safetensors")
    (folder / "adapter_config.json").write_text(json.dumps({"peft_type": "LORA", "r": rank, "lora_alpha": alpha}))
    return folder


def change(folder: Path, module: str) -> torch.Tensor:
    """s B A of one module; zero where the adapter does not stand in it."""
    adapter = StoredAdapter.read(folder)
    if f"{module}.lora_A.weight" not in adapter.tensors:
        return torch.zeros(6, 8)
    return adapter.shape.scale * adapter.tensors[f"{module}.lora_B.weight"] @ adapter.tensors[f"{module}.lora_A.weight"]


@pytest.fixture
def parts(tmp_path: Path) -> list[tuple[Path, float]]:
    """Of different ranks, scales and places."""
    return [
        (written(tmp_path / "a", 2, 4.0, (Q, V), seed=1), 0.7),
        (written(tmp_path / "b", 3, 3.0, (Q,), seed=2), 0.3),
    ]


def test_a_mixture_is_the_weighted_sum_of_its_parts(tmp_path: Path, parts: list[tuple[Path, float]]) -> None:
    (tmp_path / "mixed").mkdir()
    mix(parts, 5, tmp_path / "mixed")
    assert json.loads((tmp_path / "mixed" / "adapter_config.json").read_text())["r"] == 5
    for module in (Q, V):
        wanted = sum(weight * change(folder, module) for folder, weight in parts)
        torch.testing.assert_close(change(tmp_path / "mixed", module), wanted)


@pytest.mark.parametrize("rank", [1, 3, 4])
def test_beyond_the_rank_it_is_the_nearest_there_is(tmp_path: Path, parts: list[tuple[Path, float]], rank: int) -> None:
    (tmp_path / "mixed").mkdir()
    mix(parts, rank, tmp_path / "mixed")
    for module in (Q, V):
        wanted = sum(weight * change(folder, module) for folder, weight in parts).double()  # type: ignore[union-attr]
        left, values, right = torch.linalg.svd(wanted, full_matrices=False)
        nearest = left[:, :rank] * values[:rank] @ right[:rank]
        torch.testing.assert_close(change(tmp_path / "mixed", module).double(), nearest, rtol=1e-4, atol=1e-5)
        assert load_file(tmp_path / "mixed" / "adapter_model.safetensors")[f"{module}.lora_A.weight"].shape[0] == rank


def test_a_module_narrower_than_the_rank_is_the_sum_itself(tmp_path: Path) -> None:
    parts = [(written(tmp_path / name, 7, 7.0, (Q,), seed=seed), 0.5) for seed, name in enumerate("ab")]
    (tmp_path / "mixed").mkdir()
    mix(parts, 10, tmp_path / "mixed")
    torch.testing.assert_close(
        change(tmp_path / "mixed", Q), 0.5 * (change(parts[0][0], Q) + change(parts[1][0], Q)), rtol=1e-4, atol=1e-5
    )


def test_one_part_with_a_weight_is_scaled(tmp_path: Path, parts: list[tuple[Path, float]]) -> None:
    (tmp_path / "half").mkdir()
    mix([(parts[0][0], 0.5)], 16, tmp_path / "half")
    torch.testing.assert_close(change(tmp_path / "half", Q), 0.5 * change(parts[0][0], Q))


def test_it_does_what_pefts_own_combination_does(tmp_path: Path) -> None:
    def base() -> LlamaForCausalLM:
        torch.manual_seed(0)
        return LlamaForCausalLM(LlamaConfig(vocab_size=32, hidden_size=16, intermediate_size=24, num_hidden_layers=1,
                                            num_attention_heads=2, num_key_value_heads=1))  # fmt: skip

    for name, rank in (("a", 2), ("b", 4)):
        tuned = get_peft_model(base(), LoraConfig(r=rank, lora_alpha=3, target_modules=["q_proj", "down_proj"]))
        for key, weight in tuned.named_parameters():
            if "lora_B" in key:
                torch.nn.init.normal_(weight)
        tuned.save_pretrained(str(tmp_path / name))
    theirs = PeftModel.from_pretrained(base(), str(tmp_path / "a"), adapter_name="a")
    theirs.load_adapter(str(tmp_path / "b"), adapter_name="b")
    theirs.add_weighted_adapter(["a", "b"], [0.25, 0.75], "both", combination_type="cat")
    theirs.set_adapter("both")
    (tmp_path / "mixed").mkdir()
    mix([(tmp_path / "a", 0.25), (tmp_path / "b", 0.75)], 8, tmp_path / "mixed")
    ours = PeftModel.from_pretrained(base(), str(tmp_path / "mixed"))
    ids = torch.arange(8)[None]
    torch.testing.assert_close(ours(ids).logits, theirs(ids).logits)


def test_parts_of_two_bases_are_refused(tmp_path: Path, parts: list[tuple[Path, float]]) -> None:
    other = written(tmp_path / "other", 2, 2.0, (Q,), seed=3, width=10)
    (tmp_path / "mixed").mkdir()
    with pytest.raises(LearningError, match="expected those of one base"):
        mix([*parts, (other, 0.5)], 16, tmp_path / "mixed")
