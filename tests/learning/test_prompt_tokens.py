"""Tokens without what Python puts around a tokenizer: the same ones."""

from pathlib import Path
from typing import Any

import pytest
from transformers import AutoTokenizer

from learning.prompt_tokens import PromptTokens

TEXTS = ["", " ", "<s>a <s></s> b</s>", "é 漢字 \U0001f600\n\r\n\t", "x" * 90, "\x00\ufeff‮", " lead and trail "]


@pytest.mark.parametrize("of_base", [True, False])
def test_tokens_are_those_of_the_tokenizer(bert: Path, of_base: bool) -> None:
    """That of `bert` cuts off at 20 tokens, which must not count."""
    made = PromptTokens(bert, 100, None, of_base=of_base)
    assert made._encode != made._slow
    tokenizer = AutoTokenizer.from_pretrained(bert)
    expected = [tokenizer(text, add_special_tokens=not of_base)["input_ids"] for text in TEXTS]
    assert made.encode(TEXTS) == expected
    assert [made.encode([text])[0] for text in TEXTS] == expected
    assert made.encode([]) == []


def test_a_tokenizer_that_does_more_than_its_backend_is_asked_itself(
    llama: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = AutoTokenizer.from_pretrained(llama)

    class Upper(type(plain)):  # type: ignore[misc]
        def __call__(self, texts: list[str], **named: Any) -> Any:
            return super().__call__([text.upper() for text in texts], **named)

    plain.__class__ = Upper
    monkeypatch.setattr("learning.prompt_tokens.AutoTokenizer.from_pretrained", lambda folder: plain)
    made = PromptTokens(llama, 50, None, of_base=True)
    assert made.encode(["abc"]) == PromptTokens(llama, 50, None, of_base=True).encode(["ABC"])
    assert made._encode == made._slow
