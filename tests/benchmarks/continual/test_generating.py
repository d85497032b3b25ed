"""Greedy answers in batches, against one row at a time and against teacher-forced exactness."""

from pathlib import Path

import pytest
from transformers import AutoModelForCausalLM, AutoTokenizer

from benchmarks.continual.generating import generate
from tests.learning.bases import write_base


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_base(tmp_path_factory.mktemp("llama"), "llama", seed=3)


def test_a_row_is_answered_in_a_batch_as_by_itself(base: Path) -> None:
    model, tokenizer = AutoModelForCausalLM.from_pretrained(base), AutoTokenizer.from_pretrained(base)
    prompts = [tokenizer(text)["input_ids"] for text in ("red and blue", "a", "what is the colour of the sea?", "bb")]
    together = generate(model, tokenizer, prompts, 6, None, rows=3)
    alone = [generate(model, tokenizer, [prompt], 6, None, rows=1)[0] for prompt in prompts]
    assert together == alone and any(together)


def test_an_answer_ends_before_the_terminator(base: Path) -> None:
    model, tokenizer = AutoModelForCausalLM.from_pretrained(base), AutoTokenizer.from_pretrained(base)
    prompt = tokenizer("red and blue")["input_ids"]
    (whole,) = generate(model, tokenizer, [prompt], 12, None, rows=1)
    sign = whole[4]
    (cut,) = generate(model, tokenizer, [prompt], 12, sign, rows=1)
    assert cut == whole.split(sign)[0]
