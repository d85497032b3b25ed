"""The two parts of a model give what the whole gives; where they would not, the whole is used."""

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel

from learning.output_layer import OutputLayer
from tests.learning.bases import write_base


def tiny(kind: str, **changes: Any) -> PreTrainedModel:
    sizes = {
        "vocab_size": 50,
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 8,
        "initializer_range": 0.5,
    }
    torch.manual_seed(0)
    model: PreTrainedModel = AutoModelForCausalLM.from_config(AutoConfig.for_model(kind, **{**sizes, **changes}))
    return model.eval()


IDS = torch.arange(24).reshape(2, 12)
ROWS, COLUMNS = torch.tensor([0, 0, 1]), torch.tensor([4, 11, 7])


def check(model: PreTrainedModel, *, apart: bool) -> None:
    output = OutputLayer(model)
    assert output.apart is apart
    with torch.no_grad():
        expected = model(input_ids=IDS).logits[ROWS, COLUMNS]
        got = output.logits(output.states(IDS, ROWS, COLUMNS))
    assert got.dtype == torch.float32
    torch.testing.assert_close(got, expected.float(), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("kind", "changes"),
    [
        ("llama", {}),
        ("qwen3", {}),
        ("olmo2", {}),
        ("gemma2", {"final_logit_softcapping": 3.0}),
        ("gemma3_text", {"final_logit_softcapping": 3.0}),
        ("cohere", {"logit_scale": 0.25}),
        ("granite", {"logits_scaling": 8.0}),
    ],
)
def test_logits_are_made_at_chosen_positions(kind: str, changes: dict[str, Any]) -> None:
    check(tiny(kind, **changes), apart=True)


def test_a_head_that_does_more_than_its_config_says_is_left_to_the_model() -> None:
    model = tiny("llama")
    forward = model.forward

    def shifted(*arguments: Any, **named: Any) -> Any:
        outputs = forward(*arguments, **named)
        outputs.logits = outputs.logits * 2.0
        return outputs

    model.forward = shifted  # type: ignore[method-assign]
    check(model, apart=False)


def test_a_model_that_keeps_all_columns_is_read_from_its_end() -> None:
    model = tiny("llama")
    forward = model.forward

    def whole(*arguments: Any, logits_to_keep: Any = 0, **named: Any) -> Any:
        outputs = forward(*arguments, **named)
        outputs.logits = outputs.logits + 1.0
        return outputs

    model.forward = whole  # type: ignore[method-assign]
    check(model, apart=False)


def test_a_narrow_model_works_under_autocast(tmp_path: Path) -> None:
    model: PreTrainedModel = AutoModelForCausalLM.from_pretrained(write_base(tmp_path, "llama"), dtype=torch.bfloat16)
    output = OutputLayer(model.eval())
    with torch.no_grad():
        expected = model(input_ids=IDS).logits[ROWS, COLUMNS].float()
        got = output.logits(output.states(IDS, ROWS, COLUMNS))
    assert output.apart and got.dtype == torch.float32
    assert float((got - expected).abs().max()) < 0.05 * float(expected.abs().max())
