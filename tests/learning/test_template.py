"""Prompts as text and tokens, and where answers end."""

from pathlib import Path

import pytest

from learning.errors import TemplateError
from learning.template import PromptTemplate
from tests.learning.bases import TEMPLATE, write_tokenizer

USER = [{"role": "user", "content": "hello"}]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("tokenizer")
    write_tokenizer(made)
    return made


def test_messages_become_text_and_tokens_with_one_begin_token(folder: Path) -> None:
    template = PromptTemplate(str(folder), TEMPLATE)
    text = template.render(USER)
    assert template.render(USER[0]["content"]) == text
    assert text == "<s>hello\n"
    assert template.encode_prompt(text)[0] == 0 and template.encode_prompt(text).count(0) == 1
    assert template.chat_template == TEMPLATE


def test_answers_end_with_the_end_token_or_the_terminator(folder: Path) -> None:
    with_token, with_text = PromptTemplate(str(folder), TEMPLATE), PromptTemplate(str(folder), TEMPLATE, "\n")
    assert with_token.encode_completion("ok")[-1] == 1
    assert with_text.encode_completion("ok") == with_text.encode_prompt("ok\n")
    assert with_text.terminator == "\n" and with_token.terminator is None


def test_an_answer_is_encoded_as_a_continuation(stories: Path) -> None:
    """This tokenizer begins any text with a space; an answer must decode to itself behind the prompt."""
    template = PromptTemplate(str(stories), TEMPLATE, "\n")
    prompt, answer = template.encode_prompt(template.render(USER)), template.encode_completion("play music")
    assert template._tokenizer.decode([*prompt, *answer], skip_special_tokens=True).endswith("hello\nplay music\n")


def test_the_digest_names_template_terminator_and_tokenizer(folder: Path, stories: Path) -> None:
    made = [
        PromptTemplate(str(folder), TEMPLATE),
        PromptTemplate(str(folder), TEMPLATE + " "),
        PromptTemplate(str(folder), TEMPLATE, "\n"),
        PromptTemplate(str(stories), TEMPLATE),
    ]
    assert len({template.digest for template in made}) == len(made)
    assert made[0].digest == PromptTemplate(str(folder), TEMPLATE).digest


def test_the_tokenizers_own_template_is_taken_where_none_is_given(folder: Path, tmp_path: Path) -> None:
    template = PromptTemplate(str(folder), TEMPLATE)
    template._tokenizer.chat_template = "[{{ messages[0]['content'] }}]"
    template._tokenizer.save_pretrained(tmp_path)
    assert PromptTemplate(str(tmp_path)).render(USER) == "[hello]"
    assert PromptTemplate(str(tmp_path), TEMPLATE).render(USER) == "<s>hello\n"


def test_what_is_missing_or_broken_is_said_clearly(folder: Path) -> None:
    with pytest.raises(TemplateError, match="no chat template of its own: give one"):
        PromptTemplate(str(folder))
    with pytest.raises(TemplateError, match="non-empty terminator"):
        PromptTemplate(str(folder), TEMPLATE, "")
    with pytest.raises(TemplateError, match="TemplateSyntaxError"):
        PromptTemplate(str(folder), "{{ messages[").render(USER)
    with pytest.raises(TemplateError, match="rendering 0 messages"):
        PromptTemplate(str(folder), TEMPLATE).render([])
