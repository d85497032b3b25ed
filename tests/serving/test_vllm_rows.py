"""Adapters served by vLLM equal PEFT token for token, base rows in the same batch included."""

import asyncio
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM

from learning.adapter_check import AdapterCheck
from tests.learning.elsewhere import CONFIG, WEIGHTS, each_of, write_adapter
from tests.serving.conftest import Theatre
from tests.serving.stage import DOMAINS, Reference, template

pytestmark = [pytest.mark.vllm, pytest.mark.asyncio(loop_scope="session")]
TOKENS = 24


async def answers(theatre: Theatre, wanted: list[tuple[str, list[int]]]) -> list[list[int]]:
    """Greedy tokens of each model for its prompt, all asked at once."""

    async def generate(model: str, prompt: list[int]) -> list[int]:
        body = {
            "model": model,
            "prompt": prompt,
            "max_tokens": TOKENS,
            "temperature": 0,
            "ignore_eos": True,
            "return_token_ids": True,
            "add_special_tokens": False,
        }
        reply = await theatre.service.complete(body)
        assert reply.body is not None
        return list(reply.body["choices"][0]["token_ids"])

    return await asyncio.gather(*(generate(model, prompt) for model, prompt in wanted))


def prompts_of(theatre: Theatre) -> list[list[int]]:
    style = template(theatre.model)
    return [style.encode_prompt("<s>" + text + "\n") for text in ("once upon a time", "lily saw", "the big dog")]


async def test_base_and_adapters_in_one_batch_equal_peft(theatre: Theatre) -> None:
    await theatre.publish(*DOMAINS)
    wanted = [(model, prompt) for prompt in prompts_of(theatre) for model in ("base", *DOMAINS)]
    served = await answers(theatre, wanted)
    reference = Reference(theatre.model)
    expected = [reference.tokens(theatre.folders.get(model), prompt, TOKENS) for model, prompt in wanted]
    wrong = [model for (model, _), own, right in zip(wanted, served, expected, strict=True) if own != right]
    assert not wrong, f"{len(wrong)} of {len(wanted)} differ: {wrong}"
    assert len({tuple(tokens) for tokens in expected}) == len(wanted), "the adapters must differ to show anything"


async def test_a_mixture_says_what_pefts_own_combination_says(theatre: Theatre, tmp_path: Path) -> None:
    """Beside its own parts and the base, in one batch."""
    made = {
        "banking": write_adapter(tmp_path / "banking", theatre.model, size=0.3, r=4, targets=("q_proj", "down_proj")),
        "travel": write_adapter(tmp_path / "travel", theatre.model, size=0.3, r=4, lora_alpha=3, targets=("v_proj",)),
    }
    theatre.folders |= {f"{domain}8": folder for domain, folder in made.items()}
    await theatre.publish(*made, versions=dict.fromkeys(made, 8))
    base = AutoModelForCausalLM.from_pretrained(theatre.model, dtype=torch.float32)
    both = PeftModel.from_pretrained(base, made["banking"], adapter_name="banking")
    both.load_adapter(made["travel"], adapter_name="travel")
    both.add_weighted_adapter(["banking", "travel"], [0.7, 0.3], "both", combination_type="cat")
    both.save_pretrained(str(tmp_path), selected_adapters=["both"])
    folders = {**made, "travel*3+banking*7": tmp_path / "both"}
    wanted = [(model, prompt) for prompt in prompts_of(theatre) for model in ("base", *folders)]
    served = await answers(theatre, wanted)
    reference = Reference(theatre.model)
    expected = [reference.tokens(folders.get(model), prompt, TOKENS) for model, prompt in wanted]
    assert served == expected
    assert len({tuple(tokens) for tokens in expected}) == len(wanted), "the mixture must differ to show anything"


VARIANTS: dict[str, dict[str, Any]] = {
    "banking": {"targets": ("q_proj",), "use_rslora": True},
    "travel": {"targets": ("v_proj", "gate_proj", "down_proj"), "layers_to_transform": [0, 1]},
    "work": {"targets": "all-linear", "lora_alpha": 3},
}


async def test_adapters_made_elsewhere_equal_peft(theatre: Theatre, tmp_path: Path) -> None:
    """Some modules, low layers, another scale, half the width: as the check keeps them they say what PEFT says."""
    check, made = AdapterCheck(str(theatre.model), 8), {}
    for domain, variant in VARIANTS.items():
        made[domain] = write_adapter(tmp_path / domain, theatre.model, size=0.3, r=8, **variant)
        if domain == "work":
            each_of("lora_A.weight", lambda tensor: tensor.bfloat16(), only_first=False)(made[domain])
        checked = check.folder(made[domain], ("", ""), [])
        kept = theatre.folders[f"{domain}9"] = tmp_path / f"kept-{domain}"
        kept.mkdir()
        (kept / CONFIG).write_bytes(checked.config)
        (kept / WEIGHTS).write_bytes(checked.weights)
    await theatre.publish(*VARIANTS, versions=dict.fromkeys(VARIANTS, 9))
    wanted = [(model, prompt) for prompt in prompts_of(theatre) for model in VARIANTS]
    served = await answers(theatre, wanted)
    reference = Reference(theatre.model)
    assert served == [reference.tokens(made[model], prompt, TOKENS) for model, prompt in wanted]
    base = [reference.tokens(None, prompt, TOKENS) for _, prompt in wanted]
    assert all(own != bare for own, bare in zip(served, base, strict=True))
