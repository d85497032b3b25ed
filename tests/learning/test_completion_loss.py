"""What examples become before they are learned: nothing about an answer is told by where its prompt was cut."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from learning.completion_loss import EncodedExample, encode
from learning.contract import Example
from learning.template import PromptTemplate
from tests.learning.bases import TEMPLATE

LABELS = ("a", "abcd", "abcdefgh")
"""As many tokens as characters, and the end."""


@pytest.fixture(scope="module")
def template(llama: Path) -> PromptTemplate:
    return PromptTemplate(str(llama), TEMPLATE, "\n")


def examples(lengths: list[int], completions: list[str]) -> list[Example]:
    """A prompt of so many characters before each completion."""
    return [
        Example(str(number), "<s>" + "x" * length, completion)
        for number, (length, completion) in enumerate(zip(lengths, completions, strict=True))
    ]


def ends(encoded: list[EncodedExample]) -> list[int]:
    """Where each answer begins."""
    return [each.prompt_tokens for each in encoded]


def test_no_prompt_is_cut_by_the_length_of_its_own_answer(template: PromptTemplate) -> None:
    chance = random.Random(0)
    lengths = [chance.randint(1, 90) for _ in range(200)]
    encoded = encode(examples(lengths, [chance.choice(LABELS) for _ in lengths]), template, 40)
    assert len(encoded) == 200 and max(len(each.ids) for each in encoded) <= 40
    assert {each.prompt_tokens for each in encoded if each.is_cut} == {40 - 9}
    prompts = [min(length + 1, 40 - 9) for length in lengths]
    assert ends(encoded) == prompts
    assert [each.is_cut for each in encoded] == [length + 1 > 40 - 9 for length in lengths]
    assert {each.completion_tokens for each in encoded if each.is_cut} == {2, 5, 9}


def test_a_prompt_that_fits_is_whole_however_long_the_answers_of_others(template: PromptTemplate) -> None:
    encoded = encode(examples([18, 19, 20, 30], ["a", "a", "a", "b" * 35]), template, 40)
    # Half is the prompts' but for the last, which makes room for an answer that takes more than the other half.
    assert ends(encoded) == [19, 20, 20, 4]
    assert [each.is_cut for each in encoded] == [False, False, True, True]
    assert [len(each.ids) for each in encoded] == [21, 22, 22, 40]


def test_an_example_whose_answer_alone_is_too_long_is_left_out_and_takes_no_room(template: PromptTemplate) -> None:
    encoded = encode(examples([36, 36, 36], ["a", "b" * 38, "b" * 39]), template, 40)
    assert ends(encoded) == [20, 1]
    assert ends(encode(examples([36, 36], ["a", "b" * 39]), template, 40)) == [37]
    assert encode([], template, 40) == encode(examples([3], ["b" * 39]), template, 40) == []


def test_a_cut_prompt_keeps_its_beginning_and_its_end(template: PromptTemplate) -> None:
    (example,) = encode([Example("0", "<s>abcdefghij", "yes")], template, 12)
    (whole,) = encode([Example("0", "<s>abcdefghij", "yes")], template, 99)
    assert example.ids == [*whole.ids[:4], *whole.ids[7:]]
