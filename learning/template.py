"""How messages become the text and the tokens that a base model sees, and where an answer ends.

One template is used by training, by the router's features and by the server; its digest is part of the features'
fingerprint. The terminator ends an answer where a base's end token is of no use (a frozen, tied head that was never
trained to emit it): the learner trains it, the server stops on it. Does not know of models, domains or requests.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from functools import cached_property

from jinja2 import TemplateError as JinjaError
from transformers import AutoTokenizer

from learning.checkpoint import resolve, tokenizer_digest
from learning.errors import TemplateError
from learning.template_shape import Shapes

_LEAD = "\n"


class PromptTemplate:
    """A tokenizer with a chat template and a terminator.

    `chat_template` None takes the tokenizer's own; `terminator` None ends answers with the tokenizer's end token.
    Jinja drops a newline at the very end of a template: where the prompt shall end with one, write {{ '\\n' }}.
    Raises `TemplateError` when there is neither a given nor a built-in template, or no end token and no terminator.
    """

    def __init__(self, tokenizer_path: str, chat_template: str | None = None, terminator: str | None = None) -> None:
        self._path = resolve(tokenizer_path)
        self._tokenizer = AutoTokenizer.from_pretrained(self._path)
        effective = chat_template if chat_template is not None else self._tokenizer.chat_template
        if not isinstance(effective, str) or not effective:
            raise TemplateError(
                f"tokenizer {tokenizer_path} has no chat template of its own: give one, for instance "
                "\"{{ bos_token }}{{ messages[-1]['content'] }}\\n\""
            )
        if terminator == "" or (terminator is None and self._tokenizer.eos_token_id is None):
            raise TemplateError(f"tokenizer {tokenizer_path}: expected a non-empty terminator or an end token")
        self.chat_template: str = effective
        self.terminator = terminator
        self._shapes = Shapes(effective, self._rendered)

    def render(self, messages: Sequence[Mapping[str, str]] | str) -> str:
        """The prompt as text, with whatever asks the model to answer. A bare prompt is one user message."""
        placed = self._shapes.render(messages)
        if placed is not None:
            return placed
        if isinstance(messages, str):
            messages = [{"role": "user", "content": messages}]
        try:
            return self._rendered([dict(message) for message in messages])
        except (JinjaError, KeyError, IndexError, TypeError, ValueError) as error:
            raise TemplateError(f"rendering {len(messages)} messages: {type(error).__name__}: {error}") from error

    def _rendered(self, messages: list[dict[str, str]]) -> str:
        return str(
            self._tokenizer.apply_chat_template(
                messages, chat_template=self.chat_template, tokenize=False, add_generation_prompt=True
            )
        )

    @property
    def tells_time(self) -> bool:
        """Whether the same messages may be rendered otherwise on another day."""
        return "strftime_now" in self.chat_template

    def encode_prompt(self, text: str) -> list[int]:
        """Token ids of a rendered prompt; the template itself holds the begin token, so none is added."""
        return list(self._tokenizer(text, add_special_tokens=False)["input_ids"])

    def encode_completion(self, text: str) -> list[int]:
        """Token ids of an answer and its end.

        Encoded as a continuation: tokenizers that put a space before any text would otherwise teach the model to
        answer with one.
        """
        if self.terminator is None:
            return [*self._continuation(text), int(self._tokenizer.eos_token_id)]
        return self._continuation(text + self.terminator)

    @cached_property
    def digest(self) -> str:
        """sha256 over template, terminator and tokenizer files."""
        content = json.dumps([self.chat_template, self.terminator, tokenizer_digest(self._path)])
        return hashlib.sha256(content.encode()).hexdigest()

    def _continuation(self, text: str) -> list[int]:
        lead = self.encode_prompt(_LEAD)
        joined = self.encode_prompt(_LEAD + text)
        return joined[len(lead) :] if joined[: len(lead)] == lead else self.encode_prompt(text)
