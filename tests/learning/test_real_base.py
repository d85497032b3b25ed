"""SmolLM2 as `anabranch base get` makes it: the published number of weights, and it knows the capital of France."""

from __future__ import annotations

import pytest
import torch
from transformers import AutoModelForCausalLM

from learning.acquisition import damage
from learning.catalogue import bases_folder, folder_of, is_there, packaged
from learning.checkpoint import resolve
from learning.model_shape import read_shape
from learning.template import PromptTemplate

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        not is_there(packaged("smollm2-135m")), reason="no smollm2-135m here: `anabranch base get smollm2-135m`"
    ),
]


_CACHE = bases_folder().parent
"""Where it lies outside of tests, each of which has a cache of its own."""


def test_it_answers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ANABRANCH_CACHE", str(_CACHE))
    folder = resolve("smollm2-135m")
    assert damage(folder_of(packaged("smollm2-135m"))) == ""
    assert read_shape(folder).weights == 134_515_008
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    template = PromptTemplate("smollm2-135m")
    asked = template.encode_prompt(template.render([{"role": "user", "content": "What is the capital of France?"}]))
    answered = model.generate(torch.tensor([asked]), max_new_tokens=12, do_sample=False)[0, len(asked) :].tolist()
    assert answered == template.encode_completion("The capital of France is Paris.")
